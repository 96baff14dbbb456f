// Element types, and the scalar bf16 and f16 conversions (round to nearest, ties to even; NaN stays NaN).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace automodel {

enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

size_t size_of(DType dtype);

// The full name, as PyTorch writes it without its prefix: "float32", "bfloat16", "int64", ...
const char* name_of(DType dtype);

// Reads a dtype name, case-insensitively, with or without "torch.": float, float32, fp32, double, float64, half,
// float16, fp16, bfloat16, bf16, uint8, int8, int16, short, int32, int, int64, long, bool. Nothing for other text.
std::optional<DType> parse_dtype(std::string_view text);

bool is_floating(DType dtype);

// Storage of one bf16 number: the upper half of an fp32.
struct bf16 {
  uint16_t bits;
};

inline float to_float(bf16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

inline bf16 to_bf16(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

float f16_to_float(uint16_t bits);
uint16_t float_to_f16(float x);

}  // namespace automodel
