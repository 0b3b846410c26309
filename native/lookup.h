// Training a layer that looks up tables: hard codes forward, soft questions backward (jettison/tabconv/lookup.py, which
// says what is computed). Compiled once per instruction set, like kernels; float32, one image at a time.
#pragma once
#include "kernel.h"

namespace jettison {

// A layer on one image. K = 2^levels prototypes.
struct Trees {
  int64_t codebooks, levels;
  int64_t pixels, length, outputs;  // output pixels, floats of the padded image, channels of the sums
  const int32_t *starts, *places;   // [pixel], [level][codebook]: a tree asks the float of the image at their sum
  const float* thresholds;          // [codebook][K − 1]
  const float* entries;             // [codebook][K][output]
};

// The gradient of the sums, and where those of everything else are added to.
struct Slopes {
  const float* sums;  // [pixel][output]
  float tau;
  float *image, *thresholds, *entries;  // as those of the layer
};

struct LookUp {
  Isa isa;
  void (*forward)(const Trees&, const float* image, uint8_t* codes, float* sums);  // codes [codebook][pixel], sums [pixel][output]
  void (*backward)(const Trees&, const float* image, const uint8_t* codes, const Slopes&);
};

constexpr int64_t kMostLevels = 8;

// That of `isa`, or null if it was not built.
const LookUp* look_up(Isa isa);

}  // namespace jettison
