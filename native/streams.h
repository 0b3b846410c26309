// Loops of one kind of instruction each: what a kernel could reach at best on this processor.
// `jettison probe` times them. Compiled once per instruction set, like kernels.
#pragma once
#include "kernel.h"

namespace jettison {

struct Stream {
  const char* element;  // "f32", "i8"; "" where it does not matter
  const char* what;     // "dense", "nm": multiply-adds as kernels of that format do them; "lut": look-ups; "read": bytes; "clock": cycles
  Isa isa;
  int64_t unit;                                       // multiply-adds, look-ups, bytes or cycles of one iteration
  void (*run)(const char* data, int64_t iterations);  // "read" reads unit · iterations consecutive bytes, 64-byte aligned
};

constexpr int kStreams = 7;

// Those of `isa`, kStreams of them, or null if it was not built.
const Stream* streams(Isa isa);

}  // namespace jettison
