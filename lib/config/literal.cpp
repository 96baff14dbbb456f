// A recursive-descent reader of Python literals, as ast.literal_eval accepts them. Anything else (names, calls,
// arithmetic) gives nothing, and the caller keeps the text.
#include <charconv>
#include <cstdlib>

#include "config/scalar.h"

namespace automodel::config {
namespace {

constexpr int kDeepest = 50;

bool digit(char c) {
  return c >= '0' && c <= '9';
}
// Whether a name may go on with this character; bytes beyond ASCII are letters.
bool name_char(char c) {
  return digit(c) || c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         static_cast<unsigned char>(c) >= 128;
}

int hex_value(char c) {
  if (digit(c)) return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xc0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xe0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
    out += static_cast<char>(0x80 | (code & 0x3f));
  } else {
    out += static_cast<char>(0xf0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3f));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3f));
    out += static_cast<char>(0x80 | (code & 0x3f));
  }
}

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  // The whole text: a value, or values with commas between them (a tuple).
  std::optional<Node> whole() {
    skip();
    std::optional<Node> first = value(0);
    if (!first) return std::nullopt;
    skip();
    if (done()) return first;
    if (!take(',')) return std::nullopt;
    Node tuple = Node::list();
    tuple.append(std::move(*first));
    skip();
    while (!done()) {
      std::optional<Node> next = value(0);
      if (!next) return std::nullopt;
      tuple.append(std::move(*next));
      skip();
      if (!done() && !take(',')) return std::nullopt;
      skip();
    }
    return tuple;
  }

 private:
  bool done() const { return at_ >= text_.size(); }
  char peek(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
  bool take(char c) {
    if (done() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void skip() {
    while (!done()) {
      const char c = text_[at_];
      if (c == '#') {
        while (!done() && text_[at_] != '\n') ++at_;
      } else if (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f') {
        ++at_;
      } else {
        return;
      }
    }
  }

  std::optional<Node> value(int depth) {
    if (depth > kDeepest || done()) return std::nullopt;
    const char c = peek();
    if (c == '[') return sequence(']', depth);
    if (c == '(') return sequence(')', depth);
    if (c == '{') return mapping(depth);
    if (c == '\'' || c == '"') return strings();
    if ((c == 'r' || c == 'R' || c == 'u' || c == 'U') && (peek(1) == '\'' || peek(1) == '"')) return strings();
    if (digit(c) || c == '.' || c == '-' || c == '+') return number();
    return word();
  }

  std::optional<Node> word() {
    const auto is = [&](std::string_view name) {
      if (text_.substr(at_, name.size()) != name) return false;
      if (name_char(peek(name.size()))) return false;
      at_ += name.size();
      return true;
    };
    if (is("None")) return Node::null();
    if (is("True")) return Node::boolean(true);
    if (is("False")) return Node::boolean(false);
    return std::nullopt;
  }

  // [a, b] or (a, b). (a) is a itself, (a,) is a sequence of one.
  std::optional<Node> sequence(char close, int depth) {
    ++at_;
    Node list = Node::list();
    bool comma = false;
    skip();
    while (!take(close)) {
      if (!list.items().empty() && !comma) return std::nullopt;
      std::optional<Node> element = value(depth + 1);
      if (!element) return std::nullopt;
      list.append(std::move(*element));
      skip();
      comma = take(',');
      skip();
    }
    if (close == ')' && list.items().size() == 1 && !comma) return list.items()[0];
    return list;
  }

  std::optional<Node> mapping(int depth) {
    ++at_;
    Node map = Node::map();
    bool comma = false;
    skip();
    while (!take('}')) {
      if (!map.entries().empty() && !comma) return std::nullopt;
      const size_t begin = at_;
      std::optional<Node> key = value(depth + 1);
      if (!key || !key->is_scalar()) return std::nullopt;
      std::string name = key->is_string() ? key->as_string() : std::string(text_.substr(begin, at_ - begin));
      skip();
      if (!take(':')) return std::nullopt;
      skip();
      std::optional<Node> element = value(depth + 1);
      if (!element) return std::nullopt;
      if (map.find(name)) map.add_defect({name, "key given twice", "", {}});
      map.set(std::move(name), std::move(*element));
      skip();
      comma = take(',');
      skip();
    }
    return map;
  }

  // Neighbouring string literals are one string.
  std::optional<Node> strings() {
    std::string out;
    while (true) {
      bool raw = false;
      const char prefix = static_cast<char>(peek() | 0x20);
      if ((prefix == 'r' || prefix == 'u') && (peek(1) == '\'' || peek(1) == '"')) {
        raw = prefix == 'r';
        ++at_;
      }
      if (peek() != '\'' && peek() != '"') break;
      if (!one_string(out, raw)) return std::nullopt;
      const size_t end = at_;
      skip();
      if (peek() != '\'' && peek() != '"' && !((peek() | 0x20) == 'r' && (peek(1) == '\'' || peek(1) == '"'))) {
        at_ = end;
        break;
      }
    }
    return Node::string(std::move(out));
  }

  bool one_string(std::string& out, bool raw) {
    const char quote = text_[at_++];
    const bool triple = peek() == quote && peek(1) == quote;
    if (triple) at_ += 2;
    while (!done()) {
      const char c = text_[at_++];
      if (c == quote && (!triple || (peek() == quote && peek(1) == quote))) {
        if (triple) at_ += 2;
        return true;
      }
      if (c == '\n' && !triple) return false;
      if (c != '\\') {
        out += c;
      } else if (raw) {
        out += c;
        if (done()) return false;
        out += text_[at_++];
      } else if (!escape(out)) {
        return false;
      }
    }
    return false;
  }

  // After a backslash. False when the escape is incomplete.
  bool escape(std::string& out) {
    if (done()) return false;
    const char c = text_[at_++];
    switch (c) {
      case '\n':
        return true;
      case '\\':
      case '\'':
      case '"':
        out += c;
        return true;
      case 'a':
        out += '\a';
        return true;
      case 'b':
        out += '\b';
        return true;
      case 'f':
        out += '\f';
        return true;
      case 'n':
        out += '\n';
        return true;
      case 'r':
        out += '\r';
        return true;
      case 't':
        out += '\t';
        return true;
      case 'v':
        out += '\v';
        return true;
      case 'x':
        return code_point(out, 2);
      case 'u':
        return code_point(out, 4);
      case 'U':
        return code_point(out, 8);
      default:
        break;
    }
    if (c >= '0' && c <= '7') {
      uint32_t code = static_cast<uint32_t>(c - '0');
      for (int i = 0; i < 2 && peek() >= '0' && peek() <= '7'; ++i) {
        code = code * 8 + static_cast<uint32_t>(text_[at_++] - '0');
      }
      append_utf8(out, code);
      return true;
    }
    if (c == 'N') return false;  // \N{name}
    out += '\\';
    out += c;
    return true;
  }

  bool code_point(std::string& out, int digits) {
    uint32_t code = 0;
    for (int i = 0; i < digits; ++i) {
      const int value = hex_value(peek());
      if (value < 0) return false;
      code = code * 16 + static_cast<uint32_t>(value);
      ++at_;
    }
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
    append_utf8(out, code);
    return true;
  }

  std::optional<Node> number() {
    bool negative = false;
    if (peek() == '-' || peek() == '+') {
      negative = peek() == '-';
      ++at_;
      skip();
    }
    const char base = static_cast<char>(peek(1) | 0x20);
    std::optional<Node> node;
    if (peek() == '0' && (base == 'x' || base == 'o' || base == 'b')) {
      node = based(negative, base == 'x' ? 16 : base == 'o' ? 8 : 2);
    } else {
      node = decimal(negative);
    }
    if (name_char(peek()) || peek() == '.') return std::nullopt;  // 5x, 1j, 1.2.3
    return node;
  }

  // Digits with single underscores between them. False when there is none or an underscore stands elsewhere.
  bool digits(std::string& out, int base, bool leading_underscore = false) {
    bool last_digit = leading_underscore;
    bool any = false;
    while (true) {
      const int value = hex_value(peek());
      if (value >= 0 && value < base && !done()) {
        out += peek();
        last_digit = any = true;
      } else if (peek() == '_' && last_digit) {
        last_digit = false;
      } else {
        return any && last_digit;
      }
      ++at_;
    }
  }

  std::optional<Node> based(bool negative, int base) {
    at_ += 2;
    std::string text;
    if (!digits(text, base, true)) return std::nullopt;
    return integer(text, negative, base);
  }

  static std::optional<Node> integer(std::string text, bool negative, int base) {
    if (negative) text.insert(text.begin(), '-');
    int64_t value = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error == std::errc()) return Node::integer(value);
    if (base == 10) return Node::real(std::strtod(text.c_str(), nullptr));
    double real = 0;
    for (const char c : text) {
      if (c != '-') real = real * base + hex_value(c);
    }
    return Node::real(negative ? -real : real);
  }

  std::optional<Node> decimal(bool negative) {
    std::string text;
    if (peek() != '.' && !digits(text, 10)) return std::nullopt;
    const std::string whole = text;
    bool real = false;
    if (peek() == '.') {
      real = true;
      text += '.';
      ++at_;
      if (digit(peek()) && !digits(text, 10)) return std::nullopt;
      if (text == ".") return std::nullopt;
    }
    if ((peek() | 0x20) == 'e') {
      real = true;
      text += 'e';
      ++at_;
      if (peek() == '-' || peek() == '+') text += text_[at_++];
      if (!digits(text, 10)) return std::nullopt;
    }
    if (real) {
      const double value = std::strtod(text.c_str(), nullptr);
      return Node::real(negative ? -value : value);
    }
    const bool zero = whole.find_first_not_of('0') == std::string::npos;
    if (whole.size() > 1 && whole[0] == '0' && !zero) return std::nullopt;  // 007 is not a literal
    return integer(whole, negative, 10);
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

std::optional<Node> python_literal(std::string_view text) {
  if (text.find('\0') != std::string_view::npos) return std::nullopt;
  return Reader(text).whole();
}

}  // namespace automodel::config
