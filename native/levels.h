// How deep a hash tree may be: its leaves are codes of 16 bits.
#pragma once

namespace jettison {

constexpr int kDeepest = 16;

}  // namespace jettison
