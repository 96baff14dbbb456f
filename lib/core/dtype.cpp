#include "core/dtype.h"

#include <array>
#include <cctype>
#include <utility>

namespace automodel {

size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
    case DType::kI16:
      return 2;
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      return 1;
  }
  return 0;
}

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "float64";
    case DType::kF32:
      return "float32";
    case DType::kF16:
      return "float16";
    case DType::kBF16:
      return "bfloat16";
    case DType::kI64:
      return "int64";
    case DType::kI32:
      return "int32";
    case DType::kI16:
      return "int16";
    case DType::kI8:
      return "int8";
    case DType::kU8:
      return "uint8";
    case DType::kBool:
      return "bool";
  }
  return "?";
}

std::optional<DType> parse_dtype(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, DType>, 16> kNames{{
      {"float", DType::kF32},
      {"float32", DType::kF32},
      {"double", DType::kF64},
      {"float64", DType::kF64},
      {"half", DType::kF16},
      {"float16", DType::kF16},
      {"uint8", DType::kU8},
      {"bfloat16", DType::kBF16},
      {"int8", DType::kI8},
      {"int16", DType::kI16},
      {"short", DType::kI16},
      {"int32", DType::kI32},
      {"int", DType::kI32},
      {"int64", DType::kI64},
      {"long", DType::kI64},
      {"bool", DType::kBool},
  }};
  // PyTorch has no such names, so they take no prefix.
  static constexpr std::array<std::pair<std::string_view, DType>, 3> kShort{
      {{"fp32", DType::kF32}, {"fp16", DType::kF16}, {"bf16", DType::kBF16}}};
  std::string lower;
  for (char c : text) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  std::string_view name = lower;
  for (const auto& [known, dtype] : kShort)
    if (name == known) return dtype;
  if (name.starts_with("torch.")) name.remove_prefix(6);
  for (const auto& [known, dtype] : kNames)
    if (name == known) return dtype;
  return std::nullopt;
}

bool is_floating(DType dtype) {
  return dtype == DType::kF64 || dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

float f16_to_float(uint16_t bits) {
  uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  uint32_t exponent = (bits >> 10) & 0x1fu;
  uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  // A subnormal half is mantissa * 2^-24, exact in fp32.
  float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

uint16_t float_to_f16(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (u >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds past the largest half, 65504
  if (u < 0x38800000u) {
    // Below the smallest normal half: adding 0.5 leaves round(x * 2^24) in the low mantissa bits, ties to even.
    float shifted = std::bit_cast<float>(u) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  u += 0xfffu + ((u >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((u - 0x38000000u) >> 13));
}

}  // namespace automodel
