#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "ops/cpu/sets.h"

namespace automodel::ops::cpu {

#define AUTOMODEL_SET(isa) \
  namespace isa {          \
  const Kernels& table();  \
  }
AUTOMODEL_SET(base)
AUTOMODEL_SET(v3)
AUTOMODEL_SET(v4)
AUTOMODEL_SET(v4bf16)
#undef AUTOMODEL_SET

std::vector<KernelSet> runnable_sets() {
  std::vector<KernelSet> sets{{"base", &base::table()}};
#ifdef AUTOMODEL_X86_SETS
  __builtin_cpu_init();
  bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
            __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("lzcnt") &&
            __builtin_cpu_supports("movbe");
  bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl");
  if (v3) sets.push_back({"v3", &v3::table()});
  if (v4) sets.push_back({"v4", &v4::table()});
  if (v4 && __builtin_cpu_supports("avx512bf16")) sets.push_back({"v4bf16", &v4bf16::table()});
#endif
  return sets;
}

namespace {

const Kernels& choose() {
  std::vector<KernelSet> sets = runnable_sets();
  const char* wanted = std::getenv("AUTOMODEL_ISA");
  if (wanted == nullptr || *wanted == '\0') return *sets.back().kernels;
  for (const KernelSet& set : sets)
    if (set.name == wanted) return *set.kernels;
  std::string names;
  for (const KernelSet& set : sets) names += (names.empty() ? "" : ", ") + std::string(set.name);
  fail(Fault::kDevice, "AUTOMODEL_ISA={}: this processor has no such instruction set; it runs {}", wanted, names);
}

}  // namespace

const Kernels& table() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace automodel::ops::cpu
