#include "registry.h"

#include <cstring>

namespace jettison {

#define KERNEL(name) extern const Kernel name;
namespace scalar {
#include "kernels.inc"
}
#if defined(JETTISON_X86)
namespace avx2 {
#include "kernels.inc"
}
namespace avx512 {
#include "kernels.inc"
}
#endif
#undef KERNEL

const std::vector<const Kernel*>& kernels() {
  static const std::vector<const Kernel*> all = {
#if defined(JETTISON_X86)
#define KERNEL(name) &avx512::name,
#include "kernels.inc"
#undef KERNEL
#define KERNEL(name) &avx2::name,
#include "kernels.inc"
#undef KERNEL
#endif
#define KERNEL(name) &scalar::name,
#include "kernels.inc"
#undef KERNEL
  };
  return all;
}

const void* Constants::find(const char* role) const {
  for (int i = 0; i < count; ++i)
    if (std::strcmp(items[i].role, role) == 0) return items[i].data;
  return nullptr;
}

const Kernel* find_kernel(const char* name, Isa isa) {
  for (const Kernel* k : kernels())
    if (k->isa == isa && std::strcmp(k->name, name) == 0) return k;
  return nullptr;
}

}  // namespace jettison
