// The header is parsed by nlohmann-json with a callback that sees every key, because the parser alone would let the
// last of two equal names win. Offsets must tile the data exactly, as the reference implementation demands: a gap or an
// overlap is a damaged file, or one that hides something.
#include "checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <tuple>

#include "core/error.h"

namespace automodel::checkpoint {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "tensors are stored little-endian and copied as they are");

constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
constexpr int kMaxNesting = 3;                // header object, tensor object, array

struct DTypeName {
  const char* text;
  DType dtype;
};
constexpr DTypeName kDTypes[] = {
    {"F64", DType::kF64}, {"F32", DType::kF32}, {"F16", DType::kF16}, {"BF16", DType::kBF16}, {"I64", DType::kI64},
    {"I32", DType::kI32}, {"I16", DType::kI16}, {"I8", DType::kI8},   {"U8", DType::kU8},     {"BOOL", DType::kBool},
};

const char* stored_name(DType dtype) {
  for (const auto& entry : kDTypes)
    if (entry.dtype == dtype) return entry.text;
  return "?";
}

std::optional<DType> read_dtype(std::string_view text) {
  for (const auto& entry : kDTypes)
    if (text == entry.text) return entry.dtype;
  return std::nullopt;
}

// Names in messages come from the file: cut them short and keep them on one line.
std::string printable(std::string_view name) {
  std::string text;
  for (char c : name.substr(0, 120)) text += static_cast<unsigned char>(c) < 32 ? '?' : c;
  return name.size() > 120 ? text + "..." : text;
}

json parse_json(std::string_view text, const std::string& where) {
  std::vector<std::set<std::string>> names(kMaxNesting + 2);
  auto watch = [&](int depth, json::parse_event_t event, json& value) {
    auto level = static_cast<size_t>(depth);
    if (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start) {
      AM_CHECK(depth < kMaxNesting, Fault::kCheckpoint, "{}: the header is nested deeper than a safetensors header is",
               where);
      names[level + 1].clear();
    } else if (event == json::parse_event_t::key) {
      const auto& name = value.get_ref<const std::string&>();
      AM_CHECK(names[level].insert(name).second, Fault::kCheckpoint, "{}: the header names '{}' twice", where,
               printable(name));
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::parse_error& error) {
    fail(Fault::kCheckpoint, "{}: the header is not valid JSON (byte {} of the header); the file is damaged", where,
         error.byte);
  } catch (const json::exception&) {  // a number out of range
    fail(Fault::kCheckpoint, "{}: the header holds a number out of range; the file is damaged", where);
  }
}

// An unsigned number that fits int64; anything else is no extent and no offset.
std::optional<uint64_t> whole_number(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  auto number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  return number;
}

struct DataRange {
  uint64_t start;  // first byte after the header
  uint64_t size;
};

StoredTensor read_tensor(const std::string& name, const json& entry, DataRange data, const std::string& file) {
  std::string where = file + ": tensor '" + printable(name) + "'";
  AM_CHECK(entry.is_object(), Fault::kCheckpoint, "{}: its header entry is no object", where);
  auto dtype = entry.find("dtype"), shape = entry.find("shape"), offsets = entry.find("data_offsets");
  AM_CHECK(dtype != entry.end() && dtype->is_string() && shape != entry.end() && shape->is_array() &&
               offsets != entry.end() && offsets->is_array() && offsets->size() == 2,
           Fault::kCheckpoint, "{}: its header entry needs a dtype, a shape and two data_offsets", where);

  StoredTensor tensor;
  tensor.name = name;
  const auto& type_text = dtype->get_ref<const std::string&>();
  auto known = read_dtype(type_text);
  AM_CHECK(known, Fault::kCheckpoint,
           "{}: element type '{}' is not supported (known: F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL){}", where,
           printable(type_text),
           type_text.starts_with("F8") || type_text.starts_with("F4") ? "; convert the quantised weights first" : "");
  tensor.dtype = *known;
  for (const auto& dim : *shape) {
    auto extent = whole_number(dim);
    AM_CHECK(extent, Fault::kCheckpoint, "{}: its shape holds something that is no extent", where);
    tensor.shape.push_back(static_cast<int64_t>(*extent));
  }
  auto begin = whole_number((*offsets)[0]), end = whole_number((*offsets)[1]);
  AM_CHECK(begin && end && *begin <= *end, Fault::kCheckpoint, "{}: its data_offsets are no byte range", where);
  AM_CHECK(*end <= data.size, Fault::kCheckpoint,
           "{}: bytes {} to {} lie outside the {} data bytes of the file; the file is truncated or damaged", where,
           *begin, *end, data.size);
  uint64_t bytes = 0;
  AM_CHECK(byte_size(tensor.shape, tensor.dtype, bytes), Fault::kCheckpoint, "{}: its shape {} is impossibly large",
           where, shape_text(tensor.shape));
  AM_CHECK(bytes == *end - *begin, Fault::kCheckpoint, "{}: {} of shape {} takes {} bytes, the header gives it {}",
           where, stored_name(tensor.dtype), shape_text(tensor.shape), bytes, *end - *begin);
  tensor.begin = data.start + *begin;
  tensor.end = data.start + *end;
  return tensor;
}

// Sorts by offset and demands that the tensors tile the data.
TensorTable tile(std::vector<StoredTensor> tensors, DataRange data, const std::string& where) {
  std::ranges::sort(tensors, [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  TensorTable table;
  uint64_t next = data.start;
  for (auto& tensor : tensors) {
    AM_CHECK(tensor.begin >= next, Fault::kCheckpoint, "{}: tensor '{}' overlaps the tensor before it", where,
             printable(tensor.name));
    AM_CHECK(tensor.begin == next, Fault::kCheckpoint, "{}: {} bytes before tensor '{}' belong to no tensor", where,
             tensor.begin - next, printable(tensor.name));
    next = tensor.end;
    table.add(std::move(tensor));
  }
  AM_CHECK(next == data.start + data.size, Fault::kCheckpoint,
           "{}: the last {} bytes belong to no tensor; the file is damaged", where, data.start + data.size - next);
  return table;
}

}  // namespace

bool TensorTable::add(StoredTensor tensor) {
  if (!index_.emplace(tensor.name, tensors_.size()).second) return false;
  tensors_.push_back(std::move(tensor));
  return true;
}

const StoredTensor* TensorTable::find(std::string_view name) const {
  auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const fs::path& path) {
  std::string where = path.string();
  uint64_t length = 0;
  AM_CHECK(file.size() >= sizeof length, Fault::kCheckpoint,
           "{}: {} bytes are too few for a safetensors file; the file is truncated", where, file.size());
  std::memcpy(&length, file.data(), sizeof length);
  AM_CHECK(length <= kMaxHeader, Fault::kCheckpoint,
           "{}: a header of {} bytes exceeds the limit of {}; this is no safetensors file or it is damaged", where,
           length, kMaxHeader);
  AM_CHECK(length <= file.size() - sizeof length, Fault::kCheckpoint,
           "{}: the header takes {} bytes but the file has only {}; the file is truncated", where, length,
           file.size() - sizeof length);
  std::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof length, length);
  AM_CHECK(text.starts_with('{'), Fault::kCheckpoint,
           "{}: the header does not start with '{{'; this is no safetensors file or it is damaged", where);

  json header = parse_json(text, where);
  DataRange data{sizeof length + length, file.size() - sizeof length - length};
  SafetensorsHeader result;
  std::vector<StoredTensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") {
      tensors.push_back(read_tensor(name, entry, data, where));
      continue;
    }
    AM_CHECK(entry.is_object(), Fault::kCheckpoint, "{}: __metadata__ is no object", where);
    for (const auto& [key, value] : entry.items()) {
      AM_CHECK(value.is_string(), Fault::kCheckpoint, "{}: __metadata__ '{}' is no string", where, printable(key));
      result.metadata.emplace(key, value.get<std::string>());
    }
  }
  result.tensors = tile(std::move(tensors), data, where);
  return result;
}

SafetensorsFile::SafetensorsFile(const fs::path& path)
    : path_(path), map_(path), header_(parse_safetensors(map_.bytes(), path)) {}

std::span<const std::byte> SafetensorsFile::bytes(std::string_view name) const {
  const StoredTensor* tensor = find(name);
  AM_CHECK(tensor != nullptr, Fault::kCheckpoint, "{}: has no tensor '{}'", path_.string(), name);
  return bytes(*tensor);
}

FileLayout plan_file(std::vector<TensorSpec> tensors, const std::map<std::string, std::string>& metadata) {
  std::ranges::sort(tensors, [](const auto& a, const auto& b) {
    return std::make_tuple(size_of(b.dtype), std::cref(a.name)) < std::make_tuple(size_of(a.dtype), std::cref(b.name));
  });
  FileLayout layout;
  std::string text = "{\"__metadata__\":" + json(metadata).dump();
  uint64_t offset = 0;
  std::vector<StoredTensor> stored;
  for (auto& spec : tensors) {
    uint64_t bytes = 0;
    AM_CHECK(byte_size(spec.shape, spec.dtype, bytes) && offset + bytes <= static_cast<uint64_t>(INT64_MAX),
             Fault::kBug, "tensor '{}' cannot be stored with shape {}", spec.name, shape_text(spec.shape));
    AM_CHECK(spec.name != "__metadata__", Fault::kBug, "a tensor cannot be called __metadata__");
    text += "," + json(spec.name).dump() + ":{\"dtype\":\"" + stored_name(spec.dtype) +
            "\",\"shape\":" + json(spec.shape).dump() + ",\"data_offsets\":[" + std::to_string(offset) + "," +
            std::to_string(offset + bytes) + "]}";
    stored.push_back({std::move(spec.name), spec.dtype, std::move(spec.shape), offset, offset + bytes});
    offset += bytes;
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  uint64_t length = text.size();
  layout.header.assign(reinterpret_cast<const char*>(&length), sizeof length);
  layout.header += text;
  layout.file_size = layout.header.size() + offset;
  for (auto& tensor : stored) {
    tensor.begin += layout.header.size();
    tensor.end += layout.header.size();
    std::string name = tensor.name;
    AM_CHECK(layout.tensors.add(std::move(tensor)), Fault::kBug, "tensor '{}' is to be stored twice", name);
  }
  return layout;
}

std::string shape_text(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

bool byte_size(std::span<const int64_t> shape, DType dtype, uint64_t& bytes) {
  int64_t product = static_cast<int64_t>(size_of(dtype));
  for (int64_t extent : shape)
    if (extent < 0 || __builtin_mul_overflow(product, extent, &product)) return false;
  bytes = static_cast<uint64_t>(product);
  return true;
}

}  // namespace automodel::checkpoint
