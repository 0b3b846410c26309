// What Python sees of pixel_lookup.h.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <vector>

#include "bind.h"
#include "pixel_lookup.h"

namespace nb = nanobind;
using namespace jettison;

namespace {

// A layer that looks up tables with codes of pixels; its arrays stay owned by Python while this is used.
struct PixelLookUpLayer {
  Tensor<const int32_t, 3> questions;  // (groups, levels, 2)
  Tensor<const int32_t, 2> seen;       // (taps, places)
  std::vector<int32_t> seen_at;
  PixelTrees trees;

  PixelLookUpLayer(Tensor<const int32_t, 3> q, Tensor<const int32_t, 2> s, int64_t channels, int64_t pixels)
      : questions(std::move(q)), seen(std::move(s)) {
    trees.groups = (int64_t)questions.shape(0), trees.levels = (int64_t)questions.shape(1);
    trees.channels = channels, trees.pixels = pixels;
    trees.taps = (int64_t)seen.shape(0), trees.places = (int64_t)seen.shape(1);
    need(trees.groups > 0 && trees.levels > 0 && trees.levels <= kDeepest && questions.shape(2) == 2, "questions");
    for (size_t i = 0; i < questions.size(); ++i) {
      const int32_t asked = questions.data()[i];
      if (asked >= channels || asked < (i % 2 ? -channels : 0)) throw std::invalid_argument("a question is about no channel");
    }
    seen_at.assign(trees.taps * pixels, -1);
    for (int64_t tap = 0; tap < trees.taps; ++tap)
      for (int64_t place = 0; place < trees.places; ++place) {
        const int32_t pixel = seen.data()[tap * trees.places + place];
        if (pixel < 0 || pixel >= pixels) throw std::invalid_argument("an output sees no pixel of the image");
        int32_t& at = seen_at[tap * pixels + pixel];
        if (at >= 0) throw std::invalid_argument("two outputs see a pixel at one tap");
        at = (int32_t)place;
      }
    trees.questions = questions.data(), trees.seen = seen.data(), trees.seen_at = seen_at.data();
  }

  size_t nodes() const { return trees.groups * ((size_t(1) << trees.levels) - 1); }
  size_t entries() const { return size_t(trees.taps * trees.groups) << trees.levels; }
  void need_images(size_t n, size_t images) const { need(images == n * trees.channels * trees.pixels, "images"); }
  void need_codes(size_t n, size_t codes) const { need(codes == n * trees.groups * trees.pixels, "codes"); }
};

template <class T>
auto* image_of(const T& x, int64_t i) {
  return x.data() + i * (int64_t)(x.size() / x.shape(0));
}

void encode(const PixelLookUpLayer& layer, Pool& pool, const std::string& isa, Tensor<const uint8_t, 3> images,
            Tensor<const float, 2> thresholds, Tensor<uint16_t, 3> codes) {
  const int64_t n = (int64_t)codes.shape(0);
  layer.need_images(n, images.size()), layer.need_codes(n, codes.size());
  need(thresholds.size() == layer.nodes(), "thresholds");
  const PixelLookUp* l = built(pixel_look_up, isa);
  nb::gil_scoped_release release;
  share_images(pool, n, [&](int64_t first, int64_t last, int64_t) {
    if (first < last) l->encode(layer.trees, last - first, image_of(images, first), thresholds.data(), image_of(codes, first));
  });
}

void look_up(const PixelLookUpLayer& layer, Pool& pool, const std::string& isa, Tensor<const uint16_t, 3> codes,
             Tensor<const float, 2> entries, Tensor<float, 3> sums) {
  const int64_t n = (int64_t)codes.shape(0), k = (int64_t)entries.shape(1);
  layer.need_codes(n, codes.size());
  need(entries.shape(0) == layer.entries() && k > 0, "entries");
  need((int64_t)sums.size() == n * layer.trees.places * k, "sums");
  const PixelLookUp* l = built(pixel_look_up, isa);
  nb::gil_scoped_release release;
  share_images(pool, n, [&](int64_t first, int64_t last, int64_t) {
    if (first < last) l->look_up(layer.trees, last - first, image_of(codes, first), entries.data(), k, image_of(sums, first));
  });
}

// entries: one for each thread.
void spread(const PixelLookUpLayer& layer, Pool& pool, const std::string& isa, Tensor<const uint16_t, 3> codes, Tensor<const float, 3> sums,
            Tensor<float, 3> entries) {
  const int64_t n = (int64_t)codes.shape(0), k = (int64_t)entries.shape(2);
  layer.need_codes(n, codes.size());
  need((int64_t)entries.shape(0) == pool.threads() && entries.shape(1) == layer.entries() && k > 0, "entries");
  need((int64_t)sums.size() == n * layer.trees.places * k, "sums");
  const PixelLookUp* l = built(pixel_look_up, isa);
  nb::gil_scoped_release release;
  share_images(pool, n, [&](int64_t first, int64_t last, int64_t thread) {
    if (first < last) l->spread(layer.trees, last - first, image_of(codes, first), image_of(sums, first), k, image_of(entries, thread));
  });
}

// for_thresholds: one for each thread.
void slopes(const PixelLookUpLayer& layer, Pool& pool, const std::string& isa, Tensor<const uint8_t, 3> images,
            Tensor<const uint16_t, 3> codes, Tensor<const float, 2> thresholds, Tensor<const float, 2> entries, Tensor<const float, 3> sums,
            float tau, Tensor<float, 3> for_images, Tensor<float, 3> for_thresholds) {
  const int64_t n = (int64_t)codes.shape(0), k = (int64_t)entries.shape(1);
  layer.need_images(n, images.size()), layer.need_images(n, for_images.size()), layer.need_codes(n, codes.size());
  need(thresholds.size() == layer.nodes() && for_thresholds.size() == pool.threads() * thresholds.size(), "thresholds");
  need(entries.shape(0) == layer.entries() && k > 0, "entries");
  need((int64_t)sums.size() == n * layer.trees.places * k, "sums");
  const PixelLookUp* l = built(pixel_look_up, isa);
  nb::gil_scoped_release release;
  share_images(pool, n, [&](int64_t first, int64_t last, int64_t thread) {
    if (first < last)
      l->slopes(layer.trees, last - first, image_of(images, first), image_of(codes, first), thresholds.data(), entries.data(),
                image_of(sums, first), k, tau, image_of(for_images, first), image_of(for_thresholds, thread));
  });
}

}  // namespace

void bind_pixel_look_ups(nb::module_& m) {
  nb::class_<PixelLookUpLayer>(m, "PixelLookUpLayer", "A layer that looks up tables with codes of pixels, for training (pixel_lookup.h).")
      .def(nb::init<Tensor<const int32_t, 3>, Tensor<const int32_t, 2>, int64_t, int64_t>(), nb::arg("questions"), nb::arg("seen"),
           nb::arg("channels"), nb::arg("pixels"))
      .def("encode", &encode, nb::arg("pool"), nb::arg("isa"), nb::arg("images"), nb::arg("thresholds"), nb::arg("codes"),
           "Fill codes (n, groups, pixels) of images (n, channels, pixels).")
      .def("look_up", &look_up, nb::arg("pool"), nb::arg("isa"), nb::arg("codes"), nb::arg("entries"), nb::arg("sums"),
           "Fill sums (n, places, outputs) from entries (taps · groups · prototypes, outputs).")
      .def("spread", &spread, nb::arg("pool"), nb::arg("isa"), nb::arg("codes"), nb::arg("sums"), nb::arg("entries"),
           "Add each row of sums to the entries its codes find, in one array for each thread: the transpose of look_up.")
      .def("slopes", &slopes, nb::arg("pool"), nb::arg("isa"), nb::arg("images"), nb::arg("codes"), nb::arg("thresholds"),
           nb::arg("entries"), nb::arg("sums"), nb::arg("tau"), nb::arg("for_images"), nb::arg("for_thresholds"),
           "Add the slopes of all questions to for_images and, negative, to for_thresholds, one array for each thread.");
}
