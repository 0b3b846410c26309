// A question that is soft, as training sees it (jettison/tabconv/lookup.py).
#pragma once
#include "vec.h"

namespace jettison {
namespace JETTISON_ISA_NAME {

// slope[i] = change[i] · σ'(u[i] / τ) / τ
JT_INLINE f32v soften(f32v u, f32v change, float tau) {
  const f32v one = set1(1.0f), per = set1(1.0f / tau), s = sigmoid(mul(u, per));
  return mul(mul(change, mul(s, sub(one, s))), per);
}

}  // namespace JETTISON_ISA_NAME
}  // namespace jettison
