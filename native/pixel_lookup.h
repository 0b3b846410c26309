// Training a layer that looks up tables with codes of pixels (formats/pixel_lut.py): hard codes forward, soft questions backward
// (jettison/tabconv/pixel_lookup.py, which says what is computed). Compiled once per instruction set, like kernels.
#pragma once
#include "kernel.h"
#include "levels.h"

namespace jettison {

// A layer on n images. K = 2^levels prototypes.
struct PixelTrees {
  int64_t groups, levels, channels;
  int64_t pixels;                 // of a padded image
  int64_t taps, places;           // of the window; of the output
  const int32_t* questions;       // [group][level][2], as in formats/pixel_lut.py
  const int32_t *seen, *seen_at;  // [tap][place]: the pixel that an output sees; [tap][pixel]: the output that sees it, or −1
};

// images u8 [image][channel][pixel], codes [image][group][pixel], thresholds [group][K − 1] in steps of a u8, entries
// [tap][group][K][output], sums [image][place][output].
struct PixelLookUp {
  Isa isa;
  void (*encode)(const PixelTrees&, int64_t n, const uint8_t* images, const float* thresholds, uint16_t* codes);
  void (*look_up)(const PixelTrees&, int64_t n, const uint16_t* codes, const float* entries, int64_t outputs, float* sums);
  // Adds each row of sums to the entries that its codes find.
  void (*spread)(const PixelTrees&, int64_t n, const uint16_t* codes, const float* sums, int64_t outputs, float* entries);
  // Adds the slopes of all questions to `for_images` float [image][channel][pixel] and, negative, to `for_thresholds`. sums: the gradient.
  void (*slopes)(const PixelTrees&, int64_t n, const uint8_t* images, const uint16_t* codes, const float* thresholds, const float* entries,
                 const float* sums, int64_t outputs, float tau, float* for_images, float* for_thresholds);
};

// That of `isa`, or null if it was not built.
const PixelLookUp* pixel_look_up(Isa isa);

}  // namespace jettison
