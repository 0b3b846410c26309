// What the files that know Python share.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <mutex>
#include <stdexcept>
#include <string>

#include "cpu.h"
#include "kernel.h"
#include "pool.h"

// By its name. Throws std::invalid_argument.
jettison::Isa isa_of(const std::string& name);

void bind_look_ups(nanobind::module_& m);
void bind_pixel_look_ups(nanobind::module_& m);

template <class T, int N>
using Tensor = nanobind::ndarray<T, nanobind::ndim<N>, nanobind::c_contig, nanobind::device::cpu>;

inline void need(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(std::string("the shape of ") + what + " does not fit");
}

// What `of` has for an instruction set by its name. Throws std::invalid_argument.
template <class T>
const T* built(const T* (*of)(jettison::Isa), const std::string& isa) {
  const T* found = jettison::supports(isa_of(isa)) ? of(isa_of(isa)) : nullptr;
  if (!found) throw std::invalid_argument("this processor cannot run " + isa);
  return found;
}

// f(first, last, thread): every thread gets its share of the images, always the same, so that sums are always added up alike.
template <class F>
void share_images(jettison::Pool& pool, int64_t images, const F& f) {
  struct Context {
    const F* f;
    int64_t images, threads;
  } context{&f, images, pool.threads()};
  std::lock_guard<std::mutex> lock(pool.owner());
  pool.run(
      pool.threads(),
      [](void* c, int64_t job, int) {
        const Context& x = *static_cast<const Context*>(c);
        (*x.f)(x.images* job / x.threads, x.images * (job + 1) / x.threads, job);
      },
      &context);
}
