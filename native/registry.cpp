#include "registry.h"

#include <cstring>

#include "lookup.h"
#include "pixel_lookup.h"

namespace jettison {

#define KERNEL(name) extern const Kernel name;
namespace scalar {
#include "kernels.inc"
extern const LookUp look_up;
extern const PixelLookUp pixel_look_up;
}  // namespace scalar
#if defined(JETTISON_X86)
namespace avx2 {
#include "kernels.inc"
extern const LookUp look_up;
extern const PixelLookUp pixel_look_up;
}  // namespace avx2
namespace avx512 {
#include "kernels.inc"
extern const LookUp look_up;
extern const PixelLookUp pixel_look_up;
}  // namespace avx512
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

const Constant* Constants::item(const char* role) const {
  for (int i = 0; i < count; ++i)
    if (std::strcmp(items[i].role, role) == 0) return items + i;
  return nullptr;
}

const void* Constants::find(const char* role) const {
  const Constant* const found = item(role);
  return found ? found->data : nullptr;
}

const Kernel* find_kernel(const char* name, Isa isa) {
  for (const Kernel* k : kernels())
    if (k->isa == isa && std::strcmp(k->name, name) == 0) return k;
  return nullptr;
}

const LookUp* look_up(Isa isa) {
#if defined(JETTISON_X86)
  if (isa == Isa::avx512) return &avx512::look_up;
  if (isa == Isa::avx2) return &avx2::look_up;
#endif
  return isa == Isa::scalar ? &scalar::look_up : nullptr;
}

const PixelLookUp* pixel_look_up(Isa isa) {
#if defined(JETTISON_X86)
  if (isa == Isa::avx512) return &avx512::pixel_look_up;
  if (isa == Isa::avx2) return &avx2::pixel_look_up;
#endif
  return isa == Isa::scalar ? &scalar::pixel_look_up : nullptr;
}

}  // namespace jettison
