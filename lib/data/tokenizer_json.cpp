#include "data/tokenizer_json.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace automodel::data {
namespace {

using nlohmann::json;

// Receives the parser's events. Values go into `tree`, except below model.vocab and model.merges.
class Reader : public nlohmann::json_sax<json> {
 public:
  Reader(TokenizerJson& out, const std::string& name) : out_(out), name_(name) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(int64_t value) override { return add(value); }
  bool number_float(double value, const std::string&) override { return add(value); }
  bool binary(binary_t&) override { return false; }

  bool number_unsigned(uint64_t value) override {
    if (place_ != Place::kVocab) return add(value);
    AM_CHECK(value <= static_cast<uint64_t>(std::numeric_limits<int32_t>::max()), Fault::kData,
             "{}: model.vocab gives '{}' the id {}, which is too large", name_, key_, value);
    out_.vocab.emplace_back(std::move(key_), static_cast<uint32_t>(value));
    return true;
  }

  bool string(std::string& value) override {
    if (place_ == Place::kMerges) {
      if (value.starts_with("#version")) return true;
      size_t space = value.find(' ');
      AM_CHECK(space != std::string::npos && value.find(' ', space + 1) == std::string::npos, Fault::kData,
               "{}: model.merges[{}] '{}' is not two pieces with one space between", name_, out_.merges.size(), value);
      out_.merges.emplace_back(value.substr(0, space), value.substr(space + 1));
      return true;
    }
    if (place_ == Place::kMerge) {
      if (merge_size_ < 2) (merge_size_ == 0 ? merge_.first : merge_.second) = std::move(value);
      ++merge_size_;
      return true;
    }
    return add(std::move(value));
  }

  bool key(std::string& value) override {
    key_ = std::move(value);
    return true;
  }

  bool start_object(size_t) override {
    if (in_model() && key_ == "vocab") {
      place_ = Place::kVocab;
      return true;
    }
    return open(json::object());
  }

  bool end_object() override {
    if (place_ == Place::kVocab) {
      place_ = Place::kTree;
    } else {
      open_.pop_back();
    }
    return true;
  }

  bool start_array(size_t) override {
    if (place_ == Place::kMerges) {
      place_ = Place::kMerge;
      merge_size_ = 0;
      return true;
    }
    if (in_model() && key_ == "merges") {
      place_ = Place::kMerges;
      return true;
    }
    return open(json::array());
  }

  bool end_array() override {
    if (place_ == Place::kMerge) {
      AM_CHECK(merge_size_ == 2, Fault::kData, "{}: model.merges[{}] has {} pieces, not 2", name_, out_.merges.size(),
               merge_size_);
      out_.merges.push_back(merge_);
      place_ = Place::kMerges;
    } else if (place_ == Place::kMerges) {
      place_ = Place::kTree;
    } else {
      open_.pop_back();
    }
    return true;
  }

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    std::string_view what = error.what();
    fail(Fault::kData, "{}: not valid JSON: {}", name_, what.substr(what.find("] ") + 2));
  }

 private:
  enum class Place { kTree, kVocab, kMerges, kMerge };

  bool in_model() const { return place_ == Place::kTree && open_.size() == 2 && open_[1].name == "model"; }

  json* insert(json value) {
    AM_CHECK(place_ == Place::kTree, Fault::kData, "{}: model.{} holds a value of type {}", name_,
             place_ == Place::kVocab ? "vocab" : "merges", value.type_name());
    if (open_.empty()) {
      *out_.tree = std::move(value);
      return out_.tree.get();
    }
    json& parent = *open_.back().value;
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }

  bool add(json value) {
    insert(std::move(value));
    return true;
  }

  bool open(json value) {
    json* inserted = insert(std::move(value));
    open_.push_back({inserted, key_});
    return true;
  }

  // A container that is still being read. Its address holds: its parent gets no further element before it is closed.
  struct Open {
    json* value;
    std::string name;
  };

  TokenizerJson& out_;
  const std::string& name_;
  std::vector<Open> open_;
  std::string key_;
  Place place_ = Place::kTree;
  std::pair<std::string, std::string> merge_;
  size_t merge_size_ = 0;
};

}  // namespace

TokenizerJson::TokenizerJson() : tree(std::make_unique<json>()) {}
TokenizerJson::TokenizerJson(TokenizerJson&&) noexcept = default;
TokenizerJson::~TokenizerJson() = default;

TokenizerJson parse_tokenizer_json(std::string_view content, const std::string& name) {
  TokenizerJson out;
  Reader reader(out, name);
  json::sax_parse(content.begin(), content.end(), &reader);
  AM_CHECK(out.tree->is_object(), Fault::kData, "{}: must hold an object, but holds {}", name, out.tree->type_name());
  return out;
}

}  // namespace automodel::data
