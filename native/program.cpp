#include "program.h"

#include <sys/mman.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "cpu.h"

namespace jettison {
namespace {

constexpr int64_t kLargePage = 2 << 20;

int64_t bytes_of(const Problem& p, const Shape& s, Element e) { return p.n * s.size() * (e == Element::u8 ? 1 : (int64_t)sizeof(float)); }

}  // namespace

Buffer::Buffer(int64_t bytes) : bytes_(bytes) {
  const int64_t alignment = bytes >= kLargePage ? kLargePage : 64;
  const int64_t rounded = (bytes + alignment - 1) / alignment * alignment;
  data_ = static_cast<char*>(std::aligned_alloc(alignment, rounded ? rounded : alignment));
  if (!data_) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (alignment == kLargePage) madvise(data_, rounded, MADV_HUGEPAGE);
#endif
  std::memset(data_, 0, rounded ? rounded : alignment);  // touch every page now, so that run never faults one in
}

Buffer::~Buffer() { std::free(data_); }

Packed::Packed(const Kernel* k, const Problem& problem, const Constants& constants)
    : kernel(k),
      data(k->packed_bytes && k->element == problem.element && k->accepts(problem, constants) ? k->packed_bytes(problem, constants) : 0) {
  if (!supports(k->isa)) throw std::invalid_argument(std::string("this processor cannot run ") + name_of(k->isa) + " kernels");
  if (k->element != problem.element || !k->accepts(problem, constants))
    throw std::invalid_argument(std::string("kernel ") + k->name + " does not accept this problem");
  if (k->pack) k->pack(problem, constants, data.data());
}

Program::Program(std::shared_ptr<Pool> pool, std::vector<Step> steps, int64_t arena_bytes)
    : pool_(std::move(pool)), steps_(std::move(steps)), arena_(arena_bytes) {
  for (const Step& step : steps_) {
    if ((int)step.in.size() != step.problem.inputs) throw std::invalid_argument("a step has another number of operands than its problem");
    for (size_t i = 0; i < step.in.size(); ++i)
      require(step.in[i], bytes_of(step.problem, step.problem.in[i], step.problem.element), input_bytes_);
    require(step.out, bytes_of(step.problem, step.problem.out, step.problem.out_element), output_bytes_);
    if (step.packed->kernel->workspace_bytes) {
      const int64_t need = step.packed->kernel->workspace_bytes(step.problem);
      workspace_bytes_ = need > workspace_bytes_ ? need : workspace_bytes_;
    }
  }
  workspace_bytes_ = (workspace_bytes_ + 63) / 64 * 64;
  workspace_ = std::make_unique<Buffer>(workspace_bytes_ * pool_->threads());
}

void Program::require(const Ref& ref, int64_t bytes, std::vector<int64_t>& external) {
  if (ref.at < 0) throw std::invalid_argument("an operand has a negative place");
  if (ref.space == Ref::arena) {
    if (ref.at % 64 || ref.at + bytes + kSlack > arena_.bytes()) throw std::invalid_argument("an operand does not lie inside the arena");
    return;
  }
  if (&external != (ref.space == Ref::input ? &input_bytes_ : &output_bytes_))
    throw std::invalid_argument("inputs are read, outputs are written");
  if ((int64_t)external.size() <= ref.at) external.resize(ref.at + 1, 0);
  external[ref.at] = bytes;
}

void Program::run(const void* const* inputs, void* const* outputs, int64_t* step_ns) const {
  struct Context {
    const Step* step;
    Call call;
    char* workspace;
    int64_t workspace_bytes;
  };
  const auto body = [](void* context, int64_t job, int thread) {
    const Context& c = *static_cast<const Context*>(context);
    Call call = c.call;
    call.workspace = c.workspace + thread * c.workspace_bytes;
    c.step->packed->kernel->run(call, job);
  };
  std::lock_guard<std::mutex> lock(pool_->owner());
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    const auto start = step_ns ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
    const void* in[kMaxInputs];
    for (size_t j = 0; j < step.in.size(); ++j)
      in[j] = step.in[j].space == Ref::arena ? arena_.data() + step.in[j].at : inputs[step.in[j].at];
    void* out = step.out.space == Ref::arena ? arena_.data() + step.out.at : outputs[step.out.at];
    Context context{&step, {&step.problem, step.packed->data.data(), in, out, nullptr}, workspace_->data(), workspace_bytes_};
    pool_->run(step.packed->kernel->jobs(step.problem), body, &context);
    if (step_ns) step_ns[i] = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start).count();
  }
}

}  // namespace jettison
