// The instruction set that a kernel source is being compiled for. All code of lib/ops/cpu that is compiled once per set
// (cpu/kernels.cmake) lives in automodel::ops::cpu::AUTOMODEL_ISA, helpers included, so that two sets never share a
// function. Such code calls few functions of other headers, and only ones that are inlined or compiled elsewhere.
#pragma once

#include "ops/kernels.h"

#ifndef AUTOMODEL_ISA
#error "kernel sources are compiled through cpu/kernels.cmake"
#endif

namespace automodel::ops::cpu::AUTOMODEL_ISA {

// The kernels of this set, defined by the sources of this folder.
#define AUTOMODEL_KERNEL(name, arguments) void name arguments;
AUTOMODEL_KERNELS(AUTOMODEL_KERNEL)
#undef AUTOMODEL_KERNEL

const Kernels& table();

}  // namespace automodel::ops::cpu::AUTOMODEL_ISA
