// Every kernel of kernels.inc, for every instruction set that was built.
#pragma once
#include <vector>

#include "kernel.h"

namespace jettison {

const std::vector<const Kernel*>& kernels();

// The kernel called `name` for `isa`, or null.
const Kernel* find_kernel(const char* name, Isa isa);

}  // namespace jettison
