// What the processor can run.
#pragma once
#include "kernel.h"

namespace jettison {

// True when this processor and operating system can run kernels of `isa`.
bool supports(Isa isa);

const char* name_of(Isa isa);

}  // namespace jettison
