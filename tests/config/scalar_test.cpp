// The scalar rows of the recipe specification, and the YAML 1.1 types.
#include "config/scalar.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "config/yaml_reader.h"

using namespace automodel::config;

namespace {

bool is_text(const std::string& text) {
  const Node node = translate(text);
  return node.is_string() && node.as_string() == text;
}
bool is_int(const std::string& text, int64_t value) {
  const Node node = translate(text);
  return node.is_int() && node.as_int() == value;
}
bool is_real(const std::string& text, double value) {
  const Node node = translate(text);
  return node.is_float() && node.as_double() == value;
}
Node ints(std::vector<int64_t> values) {
  Node list = Node::list();
  for (const int64_t value : values) list.append(Node::integer(value));
  return list;
}
Node yaml(const std::string& text) {
  return *parse_yaml("x: " + text, "t.yaml").find("x");
}

}  // namespace

TEST_CASE("integers of every base translate") {
  CHECK(is_int("4", 4));
  CHECK(is_int("-1", -1));
  CHECK(is_int("1_000", 1000));
  CHECK(is_int("0x10", 16));
  CHECK(is_int("0o17", 15));
  CHECK(is_int("0b11", 3));
  CHECK(is_int("+7", 7));
  CHECK(is_int("-3", -3));
  CHECK(is_int("0", 0));
  CHECK(is_int("00", 0));
  CHECK(is_int("9223372036854775807", INT64_MAX));
  CHECK(is_int("-9223372036854775808", INT64_MIN));
  CHECK(is_real("9223372036854775808", 9223372036854775808.0));
}

TEST_CASE("floats with and without dots translate") {
  CHECK(is_real("1e-5", 1e-5));
  CHECK(is_real("1.", 1.0));
  CHECK(is_real(".5", 0.5));
  CHECK(is_real("1e3", 1000.0));
  CHECK(is_real("1E5", 1e5));
  CHECK(is_real("-2.5e+3", -2500.0));
  CHECK(is_real("1_0.2_5", 10.25));
  CHECK(is_real("007.5", 7.5));
  CHECK(is_real("1e400", std::numeric_limits<double>::infinity()));
}

TEST_CASE("null and booleans translate in the spelling of Python and none") {
  CHECK(translate("none").is_null());
  CHECK(translate("None").is_null());
  CHECK(translate("None ").is_null());
  CHECK(translate("true").as_bool());
  CHECK(translate("True").as_bool());
  CHECK_FALSE(translate("False").as_bool());
  CHECK_FALSE(translate("false").as_bool());
}

TEST_CASE("words that are no literals stay text") {
  for (const char* text : {"007",    "null", "~",           "TRUE",
                           "yes",    "on",   "nan",         "inf",
                           "[a,b]",  "3+4",  "train[:100]", "torch.bfloat16",
                           "bf16",   "",     "1e-5x",       "[q_proj,v_proj]",
                           "1__0",   "1_",   "_1",          "--5",
                           "1.2.3",  "0x",   "5x",          "1j",
                           "3+4j",   "b'x'", "{1, 2}",      "f(1)",
                           "[1",     "(1",   "{'a'}",       "'open",
                           "1 2",    ",",    "[1,,2]",      "-None",
                           "Truest", "0b12", "'a' 5"}) {
    CAPTURE(text);
    CHECK(is_text(text));
  }
}

TEST_CASE("blanks around a literal do not matter") {
  CHECK(translate(" 5").as_int() == 5);
  CHECK(translate("5 ").as_int() == 5);
  CHECK(translate("- 5").as_int() == -5);
  CHECK(translate("5 # five").as_int() == 5);
}

TEST_CASE("quoted literals are text") {
  CHECK(translate("'123'").as_string() == "123");
  CHECK(translate("\"q\"").as_string() == "q");
  CHECK(translate("'a' \"b\"").as_string() == "ab");
  CHECK(translate(R"('it\'s\n\x41\u00e9\101')").as_string() == "it's\nA\u00e9A");
  CHECK(translate(R"(r'\d+')").as_string() == "\\d+");
  CHECK(translate("'''x'y'''").as_string() == "x'y");
  CHECK(translate("'none'").as_string() == "none");
}

TEST_CASE("lists, tuples and bare commas are sequences that remember their text") {
  CHECK(translate("[1,2]") == ints({1, 2}));
  CHECK(translate("1,2") == ints({1, 2}));
  CHECK(translate("(1,2)") == ints({1, 2}));
  CHECK(translate("(1,)") == ints({1}));
  CHECK(translate("()") == ints({}));
  CHECK(translate("[]") == ints({}));
  CHECK(is_int("(1)", 1));
  CHECK(translate("['a','b']").items()[1].as_string() == "b");
  CHECK(translate("[None, True, [2]]").items()[0].is_null());
  const Node split = translate("0.99, 0.01, 0.00");
  REQUIRE(split.items().size() == 3);
  CHECK(split.items()[0].as_double() == 0.99);
  CHECK(split.text() == "0.99, 0.01, 0.00");
}

TEST_CASE("a dict is a mapping") {
  const Node node = translate("{'k': 1, 2: [3]}");
  REQUIRE(node.is_map());
  CHECK(node.find("k")->as_int() == 1);
  CHECK(node.at_path("2.0")->as_int() == 3);
  CHECK(translate("{'k': 1, 'k': 2}").defects().size() == 1);
}

TEST_CASE("a text of more than 1000 characters is not translated") {
  CHECK(translate("[" + std::string(998, ' ') + "]").is_list());
  CHECK(is_text("[" + std::string(999, ' ') + "]"));
}

TEST_CASE("deep nesting is text, not a crash") {
  CHECK(is_text(std::string(400, '[') + std::string(400, ']')));
  CHECK(is_text(std::string(1000, '(')));
}

TEST_CASE("plain YAML scalars have the types of YAML 1.1") {
  for (const char* text : {"yes", "Yes", "on", "ON", "true", "TRUE"}) CHECK(yaml(text).as_bool());
  for (const char* text : {"no", "NO", "off", "Off", "False", "FALSE"}) CHECK_FALSE(yaml(text).as_bool());
  for (const char* text : {"", "~", "null", "Null", "NULL", "none", "None"}) CHECK(yaml(text).is_null());
  CHECK(yaml("012").as_int() == 10);
  CHECK(yaml("1:30").as_int() == 90);
  CHECK(yaml("1:30.5").as_double() == 90.5);
  CHECK(yaml("-0x1F").as_int() == -31);
  CHECK(yaml("0b101").as_int() == 5);
  CHECK(yaml("1_000").as_int() == 1000);
  CHECK(yaml("1.5e+3").as_double() == 1500);
  CHECK(std::isinf(yaml(".inf").as_double()));
  CHECK(yaml("-.INF").as_double() < 0);
  CHECK(std::isnan(yaml(".nan").as_double()));
}

TEST_CASE("YAML strings pass the translator") {
  CHECK(yaml("1e-8").as_double() == 1e-8);
  CHECK(yaml("1E5").as_double() == 1e5);
  CHECK(yaml("0o17").as_int() == 15);
  CHECK(yaml("0.99, 0.01").is_list());
  CHECK(yaml("(1, 2)").is_list());
  for (const char* text : {"09", "08:30", "2024-01-02", "bf16", "y", "n", "1e5x", "1.e", "._1"}) {
    CAPTURE(text);
    CHECK(yaml(text).is_string());
  }
}

TEST_CASE("quoted and block scalars stay strings") {
  CHECK(yaml("\"123\"").as_string() == "123");
  CHECK(yaml("'none'").as_string() == "none");
  CHECK(yaml("'true'").as_string() == "true");
  CHECK(yaml("|\n  12\n").as_string() == "12\n");
  CHECK(yaml("!!str 12").as_string() == "12");
  CHECK(yaml("!!float 3").is_float());
}

TEST_CASE("doubles print in the shortest form that reads back as the same float") {
  CHECK(format_double(1e-5) == "1.0e-05");
  CHECK(format_double(0.1) == "0.1");
  CHECK(format_double(3) == "3.0");
  CHECK(format_double(-0.0) == "-0.0");
  for (const double value : {1.0 / 3, 1e-300, 6.02e23, 1e16, 123456789.125, 5e-324, 1.7976931348623157e308}) {
    const Node node = resolve_plain(format_double(value));
    REQUIRE(node.is_float());
    CHECK(node.as_double() == value);
  }
}
