// Several ops run depth-first, a few rows at a time, so that what lies between them stays in the cache.
//
// fusion.py has worked out every call: which rows of which op, read from where, written to where. A call is an
// ordinary kernel on an image that is only a band of rows high, with the padding that this band meets; so a group
// computes what its ops compute one after the other, to the last bit. Between the ops stand buffers in the workspace
// of the thread, each with the rows that are still needed; rows that stay are moved to its front.
#pragma once
#include <memory>
#include <vector>

#include "kernel.h"

namespace jettison {

struct Packed;

constexpr int kBandInputs = 2;

// A row of an operand: in the arena, `image` bytes further for every image of the batch, or in the workspace.
struct Place {
  bool workspace;
  int64_t at, image;
};

// One op on a band of rows of one image; member −1: `bytes` of the workspace moved from in[0] to out.
struct Band {
  int member, problem;  // of the group's ops and problems
  Place in[kBandInputs], out;
  int64_t bytes;
};

struct Group {
  std::vector<std::shared_ptr<const Packed>> members;
  std::vector<Problem> problems;
  std::vector<Band> bands;        // of one image, job after job
  std::vector<int64_t> job_ends;  // where in `bands` each job ends
  int64_t images, buffer_bytes;   // buffer_bytes: of the workspace, for the rows between the ops

  int64_t jobs() const { return images * (int64_t)job_ends.size(); }
  int64_t workspace_bytes() const;        // per thread: the buffers, and what the kernels need besides
  void check(int64_t arena_bytes) const;  // throws std::invalid_argument
  void run(int64_t job, char* arena, char* workspace, int64_t* member_ns) const;  // member_ns: added to, or null
};

}  // namespace jettison
