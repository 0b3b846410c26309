// What Python sees of lookup.h.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "bind.h"
#include "cpu.h"
#include "lookup.h"

namespace nb = nanobind;
using namespace jettison;

namespace {

// Images are taken at once until their sums fill a quarter of a MiB, which a second-level cache holds beside some tables, and as far as
// their floats can be counted in an int32.
constexpr int64_t kTogether = 65536, kFar = int64_t(1) << 30;

// A layer that looks up tables, for training; its arrays stay owned by Python while this is used.
struct LookUpLayer {
  Tensor<const int32_t, 1> starts;    // (pixels)
  Tensor<const int32_t, 2> places;    // (levels, codebooks)
  Tensor<const float, 2> thresholds;  // (codebooks, prototypes − 1)
  Tensor<const float, 2> entries;     // (codebooks · prototypes, outputs)
  int64_t length;                     // floats of an image
  std::vector<int32_t> together;      // starts of some images, from the first one's first float on

  LookUpLayer(Tensor<const int32_t, 1> s, Tensor<const int32_t, 2> p, Tensor<const float, 2> t, Tensor<const float, 2> e, int64_t l)
      : starts(std::move(s)), places(std::move(p)), thresholds(std::move(t)), entries(std::move(e)), length(l) {
    const int64_t levels = (int64_t)places.shape(0), codebooks = (int64_t)places.shape(1), prototypes = int64_t(1) << levels;
    if (levels < 1 || levels > kDeepest || (int64_t)thresholds.shape(0) != codebooks || (int64_t)thresholds.shape(1) != prototypes - 1 ||
        (int64_t)entries.shape(0) != codebooks * prototypes)
      throw std::invalid_argument("places, thresholds and entries do not belong together");
    if (!starts.size() || !places.size() || least(starts) < 0 || least(places) < 0 || most(starts) + most(places) >= length)
      throw std::invalid_argument("a place lies outside the image");
    const int64_t pixels = (int64_t)starts.size(), floats = pixels * (int64_t)entries.shape(1);
    const int64_t images = std::max<int64_t>(1, std::min(kTogether / std::max<int64_t>(1, floats), kFar / length));
    for (int64_t i = 0; i < images; ++i)
      for (int64_t p = 0; p < pixels; ++p) together.push_back((int32_t)(i * length + starts.data()[p]));
  }

  template <class T>
  static int64_t least(const T& x) {
    return *std::min_element(x.data(), x.data() + x.size());
  }
  template <class T>
  static int64_t most(const T& x) {
    return *std::max_element(x.data(), x.data() + x.size());
  }

  // f(trees, image) for images first … last − 1 of n, some at a time.
  template <class F>
  void some(int64_t first, int64_t last, int64_t n, const F& f) const {
    const int64_t pixels = (int64_t)starts.size(), most = (int64_t)together.size() / pixels;
    Trees t;
    t.codebooks = (int64_t)places.shape(1), t.levels = (int64_t)places.shape(0);
    t.row = n * pixels, t.outputs = (int64_t)entries.shape(1);
    t.starts = together.data(), t.places = places.data(), t.thresholds = thresholds.data(), t.entries = entries.data();
    for (int64_t i = first; i < last; i += most) {
      t.pixels = pixels * std::min(most, last - i);
      f(t, i);
    }
  }
};

// Sizes of codes (codebooks, n · pixels) and sums (n · pixels, outputs) beside n images.
void need_fitting(const LookUpLayer& layer, const Tensor<const float, 2>& images, size_t codes, size_t sums) {
  const size_t rows = images.shape(0) * layer.starts.size();
  need((int64_t)images.shape(1) == layer.length, "images");
  need(codes == rows * layer.places.shape(1), "codes");
  need(sums == rows * layer.entries.shape(1), "sums");
}

void look_up_forward(const LookUpLayer& layer, Pool& pool, const std::string& isa, Tensor<const float, 2> images, Tensor<uint16_t, 2> codes,
                     Tensor<float, 2> sums) {
  need_fitting(layer, images, codes.size(), sums.size());
  const int64_t n = (int64_t)images.shape(0), pixels = (int64_t)layer.starts.size();
  const LookUp* l = built(look_up, isa);
  nb::gil_scoped_release release;
  share_images(pool, n, [&](int64_t first, int64_t last, int64_t) {
    layer.some(first, last, n, [&](const Trees& t, int64_t i) {
      l->forward(t, images.data() + i * layer.length, codes.data() + i * pixels, sums.data() + i * pixels * t.outputs);
    });
  });
}

// for_thresholds, for_entries: one for each thread.
void look_up_backward(const LookUpLayer& layer, Pool& pool, const std::string& isa, Tensor<const float, 2> images,
                      Tensor<const uint16_t, 2> codes, Tensor<const float, 2> sums, float tau, Tensor<float, 2> for_images,
                      Tensor<float, 3> for_thresholds, Tensor<float, 3> for_entries) {
  need_fitting(layer, images, codes.size(), sums.size());
  const int64_t n = (int64_t)images.shape(0), pixels = (int64_t)layer.starts.size();
  need(for_images.size() == images.size(), "for_images");
  need((int64_t)for_thresholds.size() == pool.threads() * (int64_t)layer.thresholds.size(), "for_thresholds");
  need((int64_t)for_entries.size() == pool.threads() * (int64_t)layer.entries.size(), "for_entries");
  const LookUp* l = built(look_up, isa);
  nb::gil_scoped_release release;
  share_images(pool, n, [&](int64_t first, int64_t last, int64_t thread) {
    layer.some(first, last, n, [&](const Trees& t, int64_t i) {
      l->backward(
          t, images.data() + i * layer.length, codes.data() + i * pixels,
          {sums.data() + i * pixels * t.outputs, tau, for_images.data() + i * layer.length,
           for_thresholds.data() + thread * (int64_t)layer.thresholds.size(), for_entries.data() + thread * (int64_t)layer.entries.size()});
    });
  });
}

}  // namespace

void bind_look_ups(nb::module_& m) {
  nb::class_<LookUpLayer>(m, "LookUpLayer", "A layer that looks up tables, for training (lookup.h).")
      .def(nb::init<Tensor<const int32_t, 1>, Tensor<const int32_t, 2>, Tensor<const float, 2>, Tensor<const float, 2>, int64_t>(),
           nb::arg("starts"), nb::arg("places"), nb::arg("thresholds"), nb::arg("entries"), nb::arg("length"))
      .def("forward", &look_up_forward, nb::arg("pool"), nb::arg("isa"), nb::arg("images"), nb::arg("codes"), nb::arg("sums"),
           "Fill codes (codebooks, n · pixels) and sums (n · pixels, outputs).")
      .def("backward", &look_up_backward, nb::arg("pool"), nb::arg("isa"), nb::arg("images"), nb::arg("codes"), nb::arg("sums"),
           nb::arg("tau"), nb::arg("for_images"), nb::arg("for_thresholds"), nb::arg("for_entries"),
           "Add the gradients, those of thresholds and entries to one array for each thread.");
}
