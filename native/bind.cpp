// What Python sees: this file and bind_lookup.cpp alone know of it, jettison.runtime, analysis.probe and tabconv.lookup alone use it.
#include "bind.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "cpu.h"
#include "fusion.h"
#include "pool.h"
#include "probe.h"
#include "program.h"
#include "registry.h"

namespace nb = nanobind;
using namespace jettison;

Isa isa_of(const std::string& name) {
  for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512})
    if (name == name_of(isa)) return isa;
  throw std::invalid_argument("unknown instruction set " + name);
}

namespace {

using Array = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Shapes = std::vector<std::vector<int64_t>>;

const Kernel* kernel_of(const std::string& name, const std::string& isa) {
  const Kernel* k = find_kernel(name.c_str(), isa_of(isa));
  if (!k) throw std::invalid_argument("no kernel " + name + " for " + isa);
  return k;
}

Act act_of(const std::string& name) {
  static const char* const names[] = {"none", "relu",      "relu6",   "silu", "hardswish", "hardsigmoid",
                                      "gelu", "gelu_tanh", "sigmoid", "tanh", "leaky_relu"};
  for (int i = 0; i < (int)(sizeof names / sizeof *names); ++i)
    if (name == names[i]) return (Act)i;
  throw std::invalid_argument("unknown activation " + name);
}

Shape shape_of(const std::vector<int64_t>& dims) {
  if (dims.size() > kMaxRank) throw std::invalid_argument("too many dimensions");
  Shape s{};
  s.rank = (int)dims.size();
  for (int i = 0; i < s.rank; ++i) s.d[i] = dims[i];
  return s;
}

void set_image(const Shape& s, int64_t& h, int64_t& w, int64_t& c, bool rows) {
  if (s.rank == 3 && !rows) {
    h = s.d[0], w = s.d[1], c = s.d[2];
  } else {  // anything else is rows of the last dimension
    h = 1, c = s.last(), w = s.size() / c;
  }
}

using Ints = std::vector<int64_t>;

// One attribute of spec.py into the fields of the problem.
void set_attr(Problem& p, const std::string& name, nb::handle v) {
  const auto two = [&](int64_t& a, int64_t& b) {
    const Ints x = nb::cast<Ints>(v);
    a = x.at(0), b = x.at(1);
  };
  if (name == "kernel") two(p.r, p.s);
  else if (name == "stride") two(p.stride_h, p.stride_w);
  else if (name == "dilation") two(p.dilation_h, p.dilation_w);
  else if (name == "pad") {
    const Ints x = nb::cast<Ints>(v);
    p.pad_t = x.at(0), p.pad_l = x.at(1), p.pad_b = x.at(2), p.pad_r = x.at(3);
  } else if (name == "count_pad") {
    const Ints x = nb::cast<Ints>(v);
    for (int i = 0; i < 4; ++i) p.count_pad[i] = x.at(i);
  } else if (name == "groups") p.groups = nb::cast<int64_t>(v);
  else if (name == "act") p.act = act_of(nb::cast<std::string>(v));
  else if (name == "alpha") p.alpha = nb::cast<float>(v);
  else if (name == "axis") p.axis = nb::cast<int64_t>(v);
  else if (name == "start") p.start = nb::cast<int64_t>(v);
  else if (name == "stop") p.stop = nb::cast<int64_t>(v);
  else if (name == "step") p.step = nb::cast<int64_t>(v);
  else if (name == "value") p.value = nb::cast<float>(v);
  else if (name == "eps") p.eps = nb::cast<float>(v);
  else if (name == "mode") p.bilinear = nb::cast<std::string>(v) == "bilinear";
  else if (name == "align_corners") p.align_corners = nb::cast<bool>(v);
  else if (name == "scale") {
    const auto x = nb::cast<std::vector<double>>(v);
    p.scale_h = (float)x.at(0), p.scale_w = (float)x.at(1);
  } else if (name == "axes") {
    for (int64_t a : nb::cast<Ints>(v)) p.axes_mask |= int64_t(1) << a;
  } else if (name == "perm") {
    const Ints x = nb::cast<Ints>(v);
    for (size_t i = 0; i < x.size() && i < kMaxRank; ++i) p.perm[i] = x[i];
  } else if (name == "pads") {
    const Shapes x = nb::cast<Shapes>(v);
    for (size_t i = 0; i < x.size() && i < kMaxRank; ++i) p.pads[i][0] = x[i].at(0), p.pads[i][1] = x[i].at(1);
  } else if (name != "k" && name != "size" && name != "shape" && name != "keepdims") {  // those are in the output shape
    throw std::invalid_argument("unknown attribute " + name);
  }
}

using Type = std::tuple<std::string, double, int64_t>;  // dtype, scale, zero

Element set_type(const Type& type, Quantization& q) {
  q = {std::get<1>(type), (int32_t)std::get<2>(type)};
  if (std::get<0>(type) != "f32" && std::get<0>(type) != "u8") throw std::invalid_argument("unknown dtype " + std::get<0>(type));
  return std::get<0>(type) == "u8" ? Element::u8 : Element::f32;
}

// types: of every input and then the output; empty means f32 throughout.
Problem make_problem(const std::string& kind, int64_t n, const Shapes& in, const std::vector<int64_t>& out, const nb::dict& attrs,
                     const std::vector<Type>& types) {
  if (in.empty() || in.size() > kMaxInputs)
    throw std::invalid_argument("an op takes 1 to " + std::to_string(kMaxInputs) + " inputs, got " + std::to_string(in.size()));
  Problem p;
  p.n = n;
  p.inputs = (int)in.size();
  for (size_t i = 0; i < in.size(); ++i) p.in[i] = shape_of(in[i]);
  p.out = shape_of(out);
  const bool linear = kind == "linear";
  set_image(p.in[0], p.h, p.w, p.c, linear);
  set_image(p.out, p.p, p.q, p.k, linear);
  p.residual = (kind == "conv" || linear) && in.size() == 2;
  for (auto [name, value] : attrs) set_attr(p, nb::cast<std::string>(name), value);
  if (types.empty()) return p;
  if (types.size() != in.size() + 1) throw std::invalid_argument("needs a type for every input and the output");
  for (size_t i = 0; i < in.size(); ++i) p.element = set_type(types[i], p.in_quantization[i]);
  p.out_element = set_type(types.back(), p.out_quantization);
  return p;
}

// Constants as the kernels want them; the arrays stay owned by Python while this is used.
struct ConstantList {
  std::vector<std::string> roles;
  std::vector<Array> arrays;
  std::vector<Constant> items;
  Constants view;

  ConstantList(const nb::dict& parts, std::pair<int64_t, int64_t> nm) {
    for (auto [role, value] : parts) {
      roles.push_back(nb::cast<std::string>(role));
      arrays.push_back(nb::cast<Array>(value));
    }
    for (size_t i = 0; i < roles.size(); ++i) {
      Constant c{roles[i].c_str(), arrays[i].data(), (int)arrays[i].ndim(), {}};
      for (int d = 0; d < c.rank && d < kMaxRank; ++d) c.d[d] = (int64_t)arrays[i].shape(d);
      items.push_back(c);
    }
    view = {items.data(), (int)items.size(), nm.first, nm.second};
  }
};

const Stream* stream_of(const std::string& element, const std::string& what, const std::string& isa) {
  const Stream* all = streams(isa_of(isa));
  for (int i = 0; all && i < kStreams; ++i)
    if (all[i].element == element && all[i].what == what) return all + i;
  throw std::invalid_argument("no stream " + element + " " + what + " for " + isa);
}

std::vector<const void*> check_arrays(const std::vector<Array>& arrays, const std::vector<int64_t>& bytes, const char* what) {
  if (arrays.size() != bytes.size())
    throw std::invalid_argument(std::string("wrong number of ") + what + "s: " + std::to_string(arrays.size()));
  std::vector<const void*> data;
  for (size_t i = 0; i < arrays.size(); ++i) {
    if ((int64_t)arrays[i].nbytes() != bytes[i])
      throw std::invalid_argument(std::string(what) + " " + std::to_string(i) + " must have " + std::to_string(bytes[i]) + " bytes, got " +
                                  std::to_string(arrays[i].nbytes()));
    data.push_back(arrays[i].data());
  }
  return data;
}

using Operand = std::pair<int, int64_t>;
using StepTuple = std::tuple<std::shared_ptr<Packed>, Problem*, std::vector<Operand>, Operand>;
using PlaceTuple = std::tuple<bool, int64_t, int64_t>;
using BandTuple = std::tuple<int, int, std::vector<PlaceTuple>, PlaceTuple, int64_t>;

Place place_of(const PlaceTuple& p) { return {std::get<0>(p), std::get<1>(p), std::get<2>(p)}; }

Group make_group(const std::vector<std::shared_ptr<Packed>>& members, const std::vector<Problem*>& problems,
                 const std::vector<std::vector<BandTuple>>& jobs, int64_t images, int64_t buffer_bytes) {
  Group g{{members.begin(), members.end()}, {}, {}, {}, images, buffer_bytes};
  for (const Problem* p : problems) {
    g.problems.push_back(*p);
    g.problems.back().band = true;
  }
  for (const auto& job : jobs) {
    for (const auto& [member, problem, in, out, bytes] : job) {
      if (in.empty() || in.size() > kBandInputs) throw std::invalid_argument("a band has 1 or 2 operands");
      Band band{member, problem, {}, place_of(out), bytes};
      for (size_t i = 0; i < in.size(); ++i) band.in[i] = place_of(in[i]);
      g.bands.push_back(band);
    }
    g.job_ends.push_back((int64_t)g.bands.size());
  }
  return g;
}

std::vector<int64_t> run_program(const Program& program, const std::vector<Array>& in, const std::vector<Array>& out, bool profile) {
  const auto inputs = check_arrays(in, program.input_bytes(), "input");
  const auto outputs = check_arrays(out, program.output_bytes(), "output");
  std::vector<void*> writable;
  for (const void* o : outputs) writable.push_back(const_cast<void*>(o));
  std::vector<int64_t> ns(profile ? program.ops() : 0);
  nb::gil_scoped_release release;
  program.run(inputs.data(), writable.data(), profile ? ns.data() : nullptr);
  return ns;
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Kernels, memory and threads. Use jettison.runtime.";
  m.def(
      "isas",
      [] {
        std::vector<std::string> names;
        for (Isa isa : {Isa::avx512, Isa::avx2, Isa::scalar})
          if (supports(isa)) names.push_back(name_of(isa));
        return names;
      },
      "Instruction sets that this machine can run, best first.");
  m.def(
      "kernels",
      [] {
        std::vector<std::tuple<std::string, std::string, std::string, std::string, std::string>> rows;
        for (const Kernel* k : kernels())
          rows.emplace_back(k->name, k->op, k->format, name_of(k->isa), k->element == Element::u8 ? "u8" : "f32");
        return rows;
      },
      "(name, op, format, isa, dtype of the inputs) of every kernel, in order of preference.");
  m.attr("SLACK_BYTES") = kSlack;
  m.attr("MAX_INPUTS") = kMaxInputs;

  nb::class_<Problem>(m, "Problem", "One op with every size known.")
      .def(
          "__init__",
          [](Problem* self, const std::string& kind, int64_t n, const Shapes& in, const std::vector<int64_t>& out, const nb::dict& attrs,
             const std::vector<Type>& types) { new (self) Problem(make_problem(kind, n, in, out, attrs, types)); },
          nb::arg("kind"), nb::arg("n"), nb::arg("inputs"), nb::arg("output"), nb::arg("attrs"), nb::arg("types") = std::vector<Type>());

  m.def(
      "accepts",
      [](const std::string& name, const std::string& isa, const Problem& p, const nb::dict& parts, std::pair<int64_t, int64_t> nm) {
        const Kernel* k = kernel_of(name, isa);
        return k->element == p.element && k->accepts(p, ConstantList(parts, nm).view);
      },
      nb::arg("kernel"), nb::arg("isa"), nb::arg("problem"), nb::arg("constants"), nb::arg("nm") = std::pair<int64_t, int64_t>(0, 0));
  m.def(
      "cost",
      [](const std::string& name, const std::string& isa, const Problem& p, const nb::dict& parts, std::pair<int64_t, int64_t> nm) {
        const Kernel* k = kernel_of(name, isa);
        return k->cost ? k->cost(p, ConstantList(parts, nm).view) : 0.0;
      },
      nb::arg("kernel"), nb::arg("isa"), nb::arg("problem"), nb::arg("constants"), nb::arg("nm") = std::pair<int64_t, int64_t>(0, 0),
      "Modelled cycles of one core.");

  nb::class_<Packed>(m, "Packed", "One op's constants in its kernel's own layout.")
      .def(
          "__init__",
          [](Packed* self, const std::string& name, const std::string& isa, const Problem& p, const nb::dict& parts,
             std::pair<int64_t, int64_t> nm) { new (self) Packed(kernel_of(name, isa), p, ConstantList(parts, nm).view); },
          nb::arg("kernel"), nb::arg("isa"), nb::arg("problem"), nb::arg("constants"), nb::arg("nm") = std::pair<int64_t, int64_t>(0, 0))
      .def_prop_ro("bytes", [](const Packed& p) { return p.data.bytes(); });

  nb::class_<Pool>(m, "Pool", "Threads that run one loop at a time.")
      .def(nb::init<int>(), nb::arg("threads"))
      .def_prop_ro("threads", &Pool::threads);

  nb::class_<Probe>(m, "Probe", "A loop of one kind of instruction, on all threads of a pool.")
      .def(
          "__init__",
          [](Probe* self, std::shared_ptr<Pool> pool, const std::string& element, const std::string& what, const std::string& isa,
             int64_t bytes) { new (self) Probe(std::move(pool), stream_of(element, what, isa), bytes); },
          nb::arg("pool"), nb::arg("element"), nb::arg("what"), nb::arg("isa"), nb::arg("bytes") = 0)
      .def_prop_ro("unit", &Probe::unit, "Multiply-adds, look-ups, bytes or cycles of one iteration.")
      .def_prop_ro("pass_iterations", &Probe::pass, "Iterations that read a thread's memory once.")
      .def("run", &Probe::run, nb::arg("passes"), nb::arg("iterations"), nb::call_guard<nb::gil_scoped_release>(),
           "Nanoseconds until every thread has done its passes.");

  bind_look_ups(m);
  bind_pixel_look_ups(m);

  nb::class_<Group>(m, "Group", "Ops that run band by band (fusion.h). A place is (in the workspace?, bytes, bytes per image).")
      .def(
          "__init__",
          [](Group* self, const std::vector<std::shared_ptr<Packed>>& members, const std::vector<Problem*>& problems,
             const std::vector<std::vector<BandTuple>>& jobs, int64_t images,
             int64_t buffer_bytes) { new (self) Group(make_group(members, problems, jobs, images, buffer_bytes)); },
          nb::arg("members"), nb::arg("problems"), nb::arg("jobs"), nb::arg("images"), nb::arg("buffer_bytes"));

  nb::class_<Program>(m, "Program", "A network made ready for one batch size. Operands are (space, place): 0 arena, 1 input, 2 output.")
      .def(
          "__init__",
          [](Program* self, std::shared_ptr<Pool> pool, const std::vector<std::variant<StepTuple, std::shared_ptr<Group>>>& steps,
             int64_t arena_bytes) {
            std::vector<Step> list;
            for (const auto& item : steps) {
              if (const auto* group = std::get_if<std::shared_ptr<Group>>(&item)) {
                list.emplace_back().group = *group;
                continue;
              }
              const auto& [packed, problem, in, out] = std::get<StepTuple>(item);
              Step step{packed, *problem, {}, {out.first, out.second}, nullptr};
              for (const Operand& o : in) step.in.push_back({o.first, o.second});
              list.push_back(std::move(step));
            }
            new (self) Program(std::move(pool), std::move(list), arena_bytes);
          },
          nb::arg("pool"), nb::arg("steps"), nb::arg("arena_bytes"))
      .def("run", &run_program, nb::arg("inputs"), nb::arg("outputs"), nb::arg("profile") = false,
           "Fill `outputs`; with profile, nanoseconds of each op.")
      .def_prop_ro("workspace_bytes", &Program::workspace_bytes);
}
