#include "program.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "cpu.h"

namespace jettison {
namespace {

using Clock = std::chrono::steady_clock;

int64_t ns_since(Clock::time_point start) { return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count(); }

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
  int64_t most_members = 0;
  for (const Step& step : steps_) {
    check(step);
    const Kernel* kernel = step.group ? nullptr : step.packed->kernel;
    const int64_t need = step.group ? step.group->workspace_bytes() : kernel->workspace_bytes ? kernel->workspace_bytes(step.problem) : 0;
    workspace_bytes_ = need > workspace_bytes_ ? need : workspace_bytes_;
    if (step.group && step.ops() > most_members) most_members = step.ops();
    ops_ += step.ops();
  }
  workspace_bytes_ = (workspace_bytes_ + 63) / 64 * 64;
  workspace_ = std::make_unique<Buffer>(workspace_bytes_ * pool_->threads());
  group_ns_.resize(most_members * pool_->threads());
}

void Program::check(const Step& step) {
  if (step.group) return step.group->check(arena_.bytes());
  const Problem& p = step.problem;
  if ((int)step.in.size() != p.inputs) throw std::invalid_argument("a step has another number of operands than its problem");
  for (size_t i = 0; i < step.in.size(); ++i) require(step.in[i], p.n * bytes_of(p.in[i], p.element), input_bytes_);
  require(step.out, p.n * bytes_of(p.out, p.out_element), output_bytes_);
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

void Program::run(const void* const* inputs, void* const* outputs, int64_t* op_ns) const {
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
  for (const Step& step : steps_) {
    if (step.group) {
      run_group(*step.group, op_ns);
      if (op_ns) op_ns += step.ops();
      continue;
    }
    const auto start = op_ns ? Clock::now() : Clock::time_point();
    const void* in[kMaxInputs];
    for (size_t j = 0; j < step.in.size(); ++j)
      in[j] = step.in[j].space == Ref::arena ? arena_.data() + step.in[j].at : inputs[step.in[j].at];
    void* out = step.out.space == Ref::arena ? arena_.data() + step.out.at : outputs[step.out.at];
    Context context{&step, {&step.problem, step.packed->data.data(), in, out, nullptr}, workspace_->data(), workspace_bytes_};
    pool_->run(step.packed->kernel->jobs(step.problem), body, &context);
    if (op_ns) *op_ns++ = ns_since(start);
  }
}

// The time of a group is shared out among its ops as the threads spent theirs.
void Program::run_group(const Group& group, int64_t* op_ns) const {
  struct Context {
    const Group* group;
    char *arena, *workspace;
    int64_t workspace_bytes;
    int64_t* ns;
  };
  const auto body = [](void* context, int64_t job, int thread) {
    const Context& c = *static_cast<const Context*>(context);
    int64_t* ns = c.ns ? c.ns + thread * (int64_t)c.group->members.size() : nullptr;
    c.group->run(job, c.arena, c.workspace + thread * c.workspace_bytes, ns);
  };
  Context context{&group, arena_.data(), workspace_->data(), workspace_bytes_, op_ns ? group_ns_.data() : nullptr};
  const auto start = op_ns ? Clock::now() : Clock::time_point();
  if (op_ns) std::fill(group_ns_.begin(), group_ns_.end(), 0);
  pool_->run(group.jobs(), body, &context);
  if (!op_ns) return;
  const int64_t wall = ns_since(start), members = (int64_t)group.members.size();
  int64_t total = 0;
  for (int64_t i = 0; i < members; ++i) {
    op_ns[i] = 0;
    for (int64_t t = 0; t < pool_->threads(); ++t) op_ns[i] += group_ns_[t * members + i];
    total += op_ns[i];
  }
  for (int64_t i = 0; i < members; ++i) op_ns[i] = total ? (int64_t)((double)wall * (double)op_ns[i] / (double)total) : 0;
}

}  // namespace jettison
