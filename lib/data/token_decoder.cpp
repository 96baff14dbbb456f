#include "data/token_decoder.h"

#include <memory>
#include <optional>

#include "core/error.h"
#include "data/normalizer.h"
#include "data/regex.h"
#include "data/unicode.h"

namespace automodel::data {
namespace {

using Tokens = std::vector<std::string>;

std::string join(const Tokens& tokens, std::string_view separator) {
  std::string out;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out += separator;
    out += tokens[i];
  }
  return out;
}

Tokens decode_byte_level(const Tokens& tokens) {
  std::string bytes;
  for (const auto& token : tokens)
    if (!append_bytes_of_byte_level(bytes, token)) bytes += token;
  return {to_valid_utf8(bytes)};
}

// The byte of a token such as "<0x0A>".
std::optional<char> byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  int value = 0;
  for (char c : token.substr(3, 2)) {
    int digit = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
    if (digit < 0) return std::nullopt;
    value = value * 16 + digit;
  }
  return static_cast<char>(value);
}

// Runs of byte tokens become text when a whole run is well-formed, else one U+FFFD for each byte.
Tokens decode_byte_fallback(const Tokens& tokens) {
  Tokens out;
  std::string run;
  auto end_run = [&] {
    if (run.empty()) return;
    if (find_invalid_utf8(run) == std::string_view::npos) {
      out.push_back(run);
    } else {
      out.insert(out.end(), run.size(), std::string(kReplacementCharacter));
    }
    run.clear();
  };
  for (const auto& token : tokens) {
    if (auto byte = byte_of(token)) {
      run.push_back(*byte);
      continue;
    }
    end_run();
    out.push_back(token);
  }
  end_run();
  return out;
}

// Up to `start` copies of `content` off the front and up to `stop` off the back of each token.
Tokens strip(Tokens tokens, const std::string& content, int64_t start, int64_t stop) {
  for (auto& token : tokens) {
    std::string_view text = token;
    for (int64_t i = 0; i < start && text.starts_with(content); ++i) text.remove_prefix(content.size());
    for (int64_t i = 0; i < stop && text.ends_with(content); ++i) text.remove_suffix(content.size());
    token = std::string(text);
  }
  return tokens;
}

// The marker is a space; within the first token it is nothing when encoding puts one there.
Tokens decode_metaspace(Tokens tokens, const Regex& marker, bool prepends) {
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = replace_all(marker, tokens[i], i == 0 && prepends ? "" : " ");
  return tokens;
}

}  // namespace

TokenDecoder::TokenDecoder(const JsonFields& json) : given_(true) {
  add(json);
}

void TokenDecoder::add(const JsonFields& json) {
  std::string type = json.text("type");
  if (type == "Sequence") {
    auto list = json.at("decoders");
    for (size_t i = 0; i < list.size(); ++i) add(list[i]);
  } else if (type == "ByteLevel") {
    steps_.push_back([](Tokens tokens) { return decode_byte_level(tokens); });
  } else if (type == "ByteFallback") {
    steps_.push_back([](Tokens tokens) { return decode_byte_fallback(tokens); });
  } else if (type == "Fuse") {
    steps_.push_back([](Tokens tokens) { return Tokens{join(tokens, "")}; });
  } else if (type == "Replace") {
    auto regex = std::make_shared<Regex>(read_pattern(json));
    std::string content = json.text("content");
    steps_.push_back([regex, content](Tokens tokens) {
      for (auto& token : tokens) token = replace_all(*regex, token, content);
      return tokens;
    });
  } else if (type == "Strip") {
    std::string content = json.text("content");
    int64_t start = json.integer("start");
    int64_t stop = json.integer("stop");
    AM_CHECK(!content.empty(), Fault::kData, "{}: 'content' must not be empty", json.where());
    steps_.push_back([=](Tokens tokens) { return strip(std::move(tokens), content, start, stop); });
  } else if (type == "Metaspace") {
    std::string replacement = json.text_or("replacement", "\xE2\x96\x81");
    std::string scheme = json.text_or("prepend_scheme", json.flag_or("add_prefix_space", true) ? "always" : "never");
    auto marker = std::make_shared<Regex>(Regex::literal(replacement, json.where()));
    steps_.push_back([=](Tokens tokens) { return decode_metaspace(std::move(tokens), *marker, scheme != "never"); });
  } else {
    fail(Fault::kData, "{}: the decoder type '{}' is not supported", json.where(), type);
  }
}

std::string TokenDecoder::decode(std::vector<std::string> tokens) const {
  if (!given_) return join(tokens, " ");
  for (const auto& step : steps_) tokens = step(std::move(tokens));
  return join(tokens, "");
}

}  // namespace automodel::data
