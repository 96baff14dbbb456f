#include "checkpoint/convert.h"

#include <cstring>
#include <type_traits>

namespace automodel::checkpoint {
namespace {

struct half {
  uint16_t bits;
};

template <class T>
T fetch(const std::byte* address) {
  T value;
  std::memcpy(&value, address, sizeof value);
  return value;
}

float widen(float x) {
  return x;
}
float widen(double x) {
  return static_cast<float>(x);
}
float widen(bf16 x) {
  return to_float(x);
}
float widen(half x) {
  return f16_to_float(x.bits);
}

template <class T>
T narrow(float x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return to_bf16(x);
  } else if constexpr (std::is_same_v<T, half>) {
    return {float_to_f16(x)};
  } else {
    return static_cast<T>(x);
  }
}

template <class From, class To>
void convert_floats(ConstElements from, Elements to, int64_t count) {
  int64_t from_step = from.stride * static_cast<int64_t>(sizeof(From));
  int64_t to_step = to.stride * static_cast<int64_t>(sizeof(To));
  for (int64_t i = 0; i < count; ++i) {
    To value = narrow<To>(widen(fetch<From>(from.data + i * from_step)));
    std::memcpy(to.data + i * to_step, &value, sizeof value);
  }
}

template <class From>
void convert_from(ConstElements from, Elements to, int64_t count) {
  switch (to.dtype) {
    case DType::kF64:
      return convert_floats<From, double>(from, to, count);
    case DType::kF32:
      return convert_floats<From, float>(from, to, count);
    case DType::kF16:
      return convert_floats<From, half>(from, to, count);
    case DType::kBF16:
      return convert_floats<From, bf16>(from, to, count);
    default:
      return;
  }
}

template <size_t kSize>
void copy_strided(ConstElements from, Elements to, int64_t count) {
  constexpr auto kStep = static_cast<int64_t>(kSize);
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(to.data + i * to.stride * kStep, from.data + i * from.stride * kStep, kSize);
}

void copy(ConstElements from, Elements to, int64_t count) {
  size_t size = size_of(from.dtype);
  if (from.stride == 1 && to.stride == 1) {
    std::memcpy(to.data, from.data, static_cast<size_t>(count) * size);
    return;
  }
  switch (size) {
    case 1:
      return copy_strided<1>(from, to, count);
    case 2:
      return copy_strided<2>(from, to, count);
    case 4:
      return copy_strided<4>(from, to, count);
    default:
      return copy_strided<8>(from, to, count);
  }
}

}  // namespace

bool convertible(DType from, DType to) {
  return from == to || (is_floating(from) && is_floating(to));
}

void convert(ConstElements from, Elements to, int64_t count) {
  if (count <= 0) return;
  if (from.dtype == to.dtype) return copy(from, to, count);
  switch (from.dtype) {
    case DType::kF64:
      return convert_from<double>(from, to, count);
    case DType::kF32:
      return convert_from<float>(from, to, count);
    case DType::kF16:
      return convert_from<half>(from, to, count);
    case DType::kBF16:
      return convert_from<bf16>(from, to, count);
    default:
      return;
  }
}

}  // namespace automodel::checkpoint
