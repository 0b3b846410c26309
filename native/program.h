// A network made ready for one batch size: steps in order, one arena for everything between them.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fusion.h"
#include "kernel.h"
#include "pool.h"

namespace jettison {

constexpr int64_t kLargePage = 2 << 20;

// 64-byte aligned, zeroed memory; on large pages where it is as large and the system offers them.
class Buffer {
 public:
  explicit Buffer(int64_t bytes);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  char* data_;
  int64_t bytes_;
};

// Bytes of one sample of an operand.
inline int64_t bytes_of(const Shape& s, Element e) { return s.size() * (e == Element::u8 ? 1 : (int64_t)sizeof(float)); }

// One op's constants in the layout of the kernel that will run it. Independent of the batch size.
struct Packed {
  Packed(const Kernel* kernel, const Problem& problem, const Constants& constants);  // throws if not accepted
  const Kernel* kernel;
  Buffer data;
};

// Where an operand lies: in the arena at an offset, or in the i-th array of the caller.
struct Ref {
  enum Space { arena = 0, input = 1, output = 2 };
  int space;
  int64_t at;
};

// One op; or a group of them, then nothing else is set.
struct Step {
  std::shared_ptr<const Packed> packed;
  Problem problem;
  std::vector<Ref> in;
  Ref out;
  std::shared_ptr<const Group> group;

  int64_t ops() const { return group ? (int64_t)group->members.size() : 1; }
};

class Program {
 public:
  // Throws std::invalid_argument when an operand does not lie inside the arena.
  Program(std::shared_ptr<Pool> pool, std::vector<Step> steps, int64_t arena_bytes);

  // Bytes the caller's i-th input or output must have.
  const std::vector<int64_t>& input_bytes() const { return input_bytes_; }
  const std::vector<int64_t>& output_bytes() const { return output_bytes_; }
  int64_t ops() const { return ops_; }
  int64_t workspace_bytes() const { return workspace_->bytes(); }  // of all threads

  // Runs all steps; with `op_ns`, writes the time of each op. Allocates nothing, cannot fail.
  // Calls on programs that share a pool wait for each other.
  void run(const void* const* inputs, void* const* outputs, int64_t* op_ns) const;

 private:
  void require(const Ref& ref, int64_t bytes, std::vector<int64_t>& external);
  void check(const Step& step);
  void run_group(const Group& group, int64_t* op_ns) const;

  std::shared_ptr<Pool> pool_;
  std::vector<Step> steps_;
  Buffer arena_;
  int64_t ops_ = 0;
  int64_t workspace_bytes_ = 0;  // of one thread
  std::unique_ptr<Buffer> workspace_;
  std::vector<int64_t> input_bytes_, output_bytes_;
  mutable std::vector<int64_t> group_ns_;  // [thread][member], while a group is timed
};

}  // namespace jettison
