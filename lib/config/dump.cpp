// Tree to YAML text. Block style for sections, flow style for lists of scalars; strings are quoted unless they are
// certain to read back as themselves.
#include "config/dump.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "config/scalar.h"

namespace automodel::config {
namespace {

constexpr const char* kMask = "******";

bool plain_safe(const std::string& text) {
  constexpr std::string_view kSafe = "_./-+@=";
  if (text.empty()) return false;
  const auto alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  if (!alphanumeric(text[0]) && text[0] != '_' && text[0] != '/') return false;
  for (const char c : text) {
    if (!alphanumeric(c) && kSafe.find(c) == std::string_view::npos) return false;
  }
  return true;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\r':
        out += "\\r";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        } else {
          out += c;
        }
    }
  }
  return out + "\"";
}

std::string string_text(const std::string& text) {
  return plain_safe(text) && resolve_plain(text).is_string() ? text : quoted(text);
}

std::string key_text(const std::string& key) {
  return plain_safe(key) ? key : quoted(key);
}

class Writer {
 public:
  explicit Writer(const DumpOptions& options) : options_(options) {}

  std::string document(const Node& node) {
    if (inline_value(node)) {
      line(0, inline_text(node, false), node.origin());
    } else if (node.is_map()) {
      map(node, 0, false);
    } else {
      list(node, 0, false);
    }
    return finish();
  }

  std::string scalar(const Node& node, bool secret) const {
    secret = options_.redact && (secret || node.secret());
    if (!node.placeholder().empty()) {
      // A default inside the placeholder of a secret is the secret.
      return secret && node.placeholder().find(',') != std::string::npos ? kMask : quoted(node.placeholder());
    }
    if (secret && (node.is_string() || node.is_int() || node.is_float())) return quoted(kMask);
    switch (node.kind()) {
      case Node::Kind::kNull:
        return "null";
      case Node::Kind::kBool:
        return node.as_bool() ? "true" : "false";
      case Node::Kind::kInt:
        return std::to_string(node.as_int());
      case Node::Kind::kFloat:
        return format_double(node.as_double());
      default:
        return string_text(node.as_string());
    }
  }

  static bool inline_value(const Node& node) {
    if (node.is_map()) return node.entries().empty();
    return std::all_of(node.items().begin(), node.items().end(),
                       [](const Node& item) { return inline_value(item) && !item.is_map(); });
  }

  std::string inline_text(const Node& node, bool secret) const {
    if (node.is_map()) return "{}";
    if (node.is_scalar()) return scalar(node, secret);
    std::string out = "[";
    for (const Node& item : node.items()) {
      if (out.size() > 1) out += ", ";
      out += inline_text(item, secret || node.secret());
    }
    return out + "]";
  }

 private:
  struct Line {
    std::string text;
    std::string origin;
  };

  void line(int indent, std::string text, const Origin& origin, bool value = true) {
    lines_.push_back({std::string(static_cast<size_t>(indent), ' ') + std::move(text), value ? origin.text() : ""});
  }

  void map(const Node& node, int indent, bool secret) {
    for (const Entry& entry : node.entries()) {
      const std::string key = key_text(entry.key) + ":";
      const bool hidden = secret || entry.value.secret() || names_secret(entry.key);
      if (inline_value(entry.value)) {
        line(indent, key + " " + inline_text(entry.value, hidden), entry.value.origin());
      } else {
        line(indent, key, entry.value.origin(), false);
        below(entry.value, indent + 2, hidden);
      }
    }
  }

  void list(const Node& node, int indent, bool secret) {
    for (const Node& item : node.items()) {
      if (inline_value(item)) {
        line(indent, "- " + inline_text(item, secret), item.origin());
        continue;
      }
      const size_t first = lines_.size();
      below(item, indent + 2, secret || item.secret());
      lines_[first].text[static_cast<size_t>(indent)] = '-';
    }
  }

  void below(const Node& node, int indent, bool secret) {
    if (node.is_map()) {
      map(node, indent, secret);
    } else {
      list(node, indent, secret);
    }
  }

  std::string finish() const {
    constexpr size_t kWidest = 60;  // comments line up behind values of ordinary length
    size_t width = 0;
    for (const Line& line : lines_) width = std::max(width, std::min(line.text.size(), kWidest));
    std::string out;
    for (const Line& line : lines_) {
      out += line.text;
      if (options_.origins && !line.origin.empty()) {
        out += std::string(width > line.text.size() ? width - line.text.size() : 0, ' ') + "  # " + line.origin;
      }
      out += '\n';
    }
    return out;
  }

  const DumpOptions& options_;
  std::vector<Line> lines_;
};

void collect(const Node& node, const std::string& path, bool secret, const Writer& writer, std::vector<Setting>& out) {
  if (Writer::inline_value(node)) {
    out.push_back({path, writer.inline_text(node, secret), node.origin().text()});
    return;
  }
  const std::string prefix = path.empty() ? "" : path + ".";
  for (const Entry& entry : node.entries()) {
    collect(entry.value, prefix + entry.key, secret || names_secret(entry.key), writer, out);
  }
  for (size_t i = 0; i < node.items().size(); ++i) {
    collect(node.items()[i], prefix + std::to_string(i), secret || node.items()[i].secret(), writer, out);
  }
}

}  // namespace

bool names_secret(std::string_view key) {
  constexpr std::array<std::string_view, 6> kSecret{"password", "secret", "token", "apikey", "authorization", "auth"};
  constexpr std::array<std::string_view, 9> kVocabulary{"bos", "eos",  "pad", "unk",  "cls",
                                                        "sep", "mask", "id",  "image"};
  std::vector<std::string> words(1);
  for (const char c : key) {
    if (c == '_' || c == '-' || c == '.') {
      words.emplace_back();
    } else {
      words.back() += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    }
  }
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "api" && i + 1 < words.size() && words[i + 1] == "key") return true;
    if (std::find(kSecret.begin(), kSecret.end(), words[i]) == kSecret.end()) continue;
    const auto vocabulary = [&](size_t j) {
      return j < words.size() && std::find(kVocabulary.begin(), kVocabulary.end(), words[j]) != kVocabulary.end();
    };
    if (words[i] == "token" && (vocabulary(i - 1) || vocabulary(i + 1))) continue;
    return true;
  }
  return false;
}

std::string dump(const Node& node, const DumpOptions& options) {
  return Writer(options).document(node);
}

std::vector<Setting> settings(const Node& node) {
  const DumpOptions options;
  std::vector<Setting> out;
  collect(node, "", false, Writer(options), out);
  return out;
}

}  // namespace automodel::config
