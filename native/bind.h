// What the files that know Python share.
#pragma once
#include <nanobind/nanobind.h>

#include <string>

#include "kernel.h"

// By its name. Throws std::invalid_argument.
jettison::Isa isa_of(const std::string& name);

void bind_look_ups(nanobind::module_& m);
