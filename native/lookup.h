// Training a layer that looks up tables: hard codes forward, soft questions backward (jettison/tabconv/lookup.py, which
// says what is computed). Compiled once per instruction set, like kernels; float32, some images at a time, as if they were one.
#pragma once
#include "kernel.h"
#include "levels.h"

namespace jettison {

// A layer on an image, or on some that follow one another. K = 2^levels prototypes.
struct Trees {
  int64_t codebooks, levels;
  int64_t pixels, row, outputs;    // output pixels; those of a row of codes, which other images may share; channels of the sums
  const int32_t *starts, *places;  // [pixel], [level][codebook]: a tree asks the float of the image at their sum
  const float* thresholds;         // [codebook][K − 1]
  const float* entries;            // [codebook][K][output]
};

// The gradient of the sums, and where those of everything else are added to.
struct Slopes {
  const float* sums;  // [pixel][output]
  float tau;
  float *image, *thresholds, *entries;  // as those of the layer
};

struct LookUp {
  Isa isa;
  void (*forward)(const Trees&, const float* image, uint16_t* codes, float* sums);  // codes [codebook][row], sums [pixel][output]
  void (*backward)(const Trees&, const float* image, const uint16_t* codes, const Slopes&);
};

// That of `isa`, or null if it was not built.
const LookUp* look_up(Isa isa);

}  // namespace jettison
