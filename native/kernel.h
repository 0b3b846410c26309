// The whole contract between a kernel and the rest of Jettison.
//
// A kernel is one constant of type Kernel, defined in kernels/NAME.cpp and named in one line of
// kernels.inc; where float32 and u8 tensors take nearly the same code, NAME_u8 stands in the same file.
// Every kernel file is compiled once per instruction set, into namespace jettison::ISA (ISA = scalar,
// avx2, avx512), so the same source gives three kernels.
// Rules for kernel files: no std containers, strings or exceptions (the linker might hand an AVX-512
// copy of a template to the scalar path); plain structs, pointers, <cstring> and, to pack, <cstdlib> only.
// `pack` runs once at load; `run` allocates nothing, cannot fail, and may be called for different
// jobs by several threads at once.
// What is packed serves any batch size and any band of rows: it depends on the widths, strides and channels, never on
// n, h, p or the padding above and below (of a linear layer, on no number of rows).
#pragma once
#include <cstddef>
#include <cstdint>

namespace jettison {

enum class Isa : int { scalar = 0, avx2 = 1, avx512 = 2 };

enum class Element : int { f32 = 0, u8 = 1 };

enum class Act : int { none, relu, relu6, silu, hardswish, hardsigmoid, gelu, gelu_tanh, sigmoid, tanh, leaky_relu };

constexpr int kMaxInputs = 64;
constexpr int kMaxRank = 8;

// Per-sample shape, innermost last. An image is (h, w, c).
struct Shape {
  int rank;
  int64_t d[kMaxRank];
  int64_t size() const {
    int64_t v = 1;
    for (int i = 0; i < rank; ++i) v *= d[i];
    return v;
  }
  int64_t last() const { return rank ? d[rank - 1] : 1; }
};

// A u8 tensor stands for (q − zero) · scale; unused for f32.
struct Quantization {
  double scale = 1;
  int32_t zero = 0;
};

// One op with every size known. Only the fields that its kind needs (spec.py) are set.
struct Problem {
  int64_t n = 1;  // batch
  int inputs = 0;
  Shape in[kMaxInputs] = {};
  Shape out = {};
  // conv, linear (as 1x1 over h = 1, w = rows), pools
  int64_t h = 1, w = 1, c = 1;  // input image
  int64_t p = 1, q = 1, k = 1;  // output image
  int64_t r = 1, s = 1, groups = 1;
  int64_t stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
  int64_t pad_t = 0, pad_l = 0, pad_b = 0, pad_r = 0;
  int64_t count_pad[4] = {0, 0, 0, 0};
  bool residual = false;  // conv, linear: in[1] is added before the activation
  bool band = false;      // of a fused group (fusion.h): one thread runs all jobs, so only the caches ask for more than one
  Act act = Act::none;
  float alpha = 0;
  // the rest
  int64_t axis = 0, start = 0, stop = 0, step = 1;
  int64_t axes_mask = 0;  // mean: bit i set if axis i is averaged
  int64_t perm[kMaxRank] = {};
  int64_t pads[kMaxRank][2] = {};
  float value = 0;  // pad
  float eps = 0;    // layer_norm
  bool bilinear = false, align_corners = false;
  float scale_h = 1, scale_w = 1;  // upsample: input step per output step
  // element types: all inputs share one
  Element element = Element::f32, out_element = Element::f32;
  Quantization in_quantization[kMaxInputs] = {}, out_quantization = {};
};

// Constants of one op by role: "bias", "scale", … and the parts of an encoded weight
// ("weight" for dense; "values", "positions" for nm …). Always contiguous.
struct Constant {
  const char* role;
  const void* data;
  int rank;
  int64_t d[kMaxRank];
};

struct Constants {
  const Constant* items;
  int count;
  int64_t n, m;                                  // parameters of the format, where it has them
  const Constant* item(const char* role) const;  // null if absent
  const void* find(const char* role) const;      // its data; null if absent
};

// What a job gets at run time. in[i] and out are contiguous NHWC, batch outermost.
// Inputs inside the arena may be read (not used) up to kSlack bytes past their end.
constexpr int64_t kSlack = 256;

struct Call {
  const Problem* problem;
  const void* packed;     // 64-byte aligned, what pack wrote
  const void* const* in;  // problem->inputs pointers
  void* out;
  void* workspace;  // of the calling thread, 64-byte aligned, workspace_bytes long
};

struct Kernel {
  const char* name;    // the constant's name
  const char* op;      // the kind it computes
  const char* format;  // "dense", "nm"; "" for ops without weights
  Isa isa;
  bool (*accepts)(const Problem&, const Constants&);
  int64_t (*packed_bytes)(const Problem&, const Constants&);  // null: nothing is packed
  void (*pack)(const Problem&, const Constants&, void* packed);
  int64_t (*workspace_bytes)(const Problem&);  // per thread; null: none
  int64_t (*jobs)(const Problem&);             // independent pieces; neighbours share data
  void (*run)(const Call&, int64_t job);
  double (*cost)(const Problem&, const Constants&);  // modelled cycles of one core; null: never preferred
  Element element = Element::f32;                    // of its inputs
};

}  // namespace jettison
