// YAML and JSON texts: positions, anchors, limits, variables.
#include <doctest/doctest.h>
#include <fmt/core.h>

#include "config/sample.h"
#include "core/error.h"

using namespace automodel::config;
using automodel::Error;

namespace {

std::string failure(const std::string& text) {
  try {
    parse_yaml(text, "f.yaml");
  } catch (const Error& error) {
    CHECK(error.fault() == automodel::Fault::kConfig);
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("every value knows its line and column") {
  const Node node = parse_yaml("a: 1\nb:\n  c: [x, yy]\n", "f.yaml");
  CHECK(node.at_path("a")->origin().text() == "f.yaml:1:4");
  CHECK(node.at_path("b.c")->origin().text() == "f.yaml:3:6");
  CHECK(node.at_path("b.c.1")->origin().text() == "f.yaml:3:10");
  CHECK(node.entries()[1].key_origin.text() == "f.yaml:2:1");
}

TEST_CASE("an empty text is null") {
  CHECK(parse_yaml("", "f.yaml").is_null());
  CHECK(parse_yaml("# nothing\n", "f.yaml").is_null());
}

TEST_CASE("a syntax error shows the line and a caret") {
  const std::string text = failure("a: 1\nb: [1, 2\nc: 3\n");
  CHECK(text.find("f.yaml:") == 0);
  CHECK(text.find("not valid YAML") != std::string::npos);
  CHECK(text.find("^") != std::string::npos);
  CHECK(failure("a: \"open\n").find("not valid YAML") != std::string::npos);
  CHECK(failure("a:\n\t- x\n") != "");
}

TEST_CASE("one document, text keys, no classes") {
  CHECK(failure("a: 1\n---\nb: 2\n").find("f.yaml:2:1: a second YAML document") == 0);
  CHECK(failure("[1]: 2\n").find("a key must be text") != std::string::npos);
  CHECK(failure("? {a: 1}\n: 2\n").find("a key must be text") != std::string::npos);
  CHECK(failure(": 2\n").find("a key is missing") != std::string::npos);
  CHECK(failure("a: !!python/name:os.system x\n").find("cannot be read with the tag") != std::string::npos);
}

TEST_CASE("a key given twice is a defect and the first value counts") {
  const Node node = parse_yaml("seed: 1\nb: {x: 1, x: 2}\nseed: 2\n", "f.yaml");
  CHECK(node.find("seed")->as_int() == 1);
  REQUIRE(node.defects().size() == 1);
  CHECK(node.defects()[0].origin.text() == "f.yaml:3:1");
  REQUIRE(node.find("b")->defects().size() == 1);
  CHECK(node.find("b")->defects()[0].key == "x");
}

TEST_CASE("anchors are copied and merge keys give way to written keys") {
  const Node node = parse_yaml(
      "base: &base {lr: 1, eps: 2}\nother: &other {lr: 5, wd: 6}\n"
      "a:\n  <<: *base\n  lr: 3\nb:\n  <<: [*base, *other]\nc: *base\nd: &n 7\ne: [*n]\n",
      "f.yaml");
  CHECK(node.at_path("a.lr")->as_int() == 3);
  CHECK(node.at_path("a.eps")->as_int() == 2);
  CHECK(node.at_path("a.eps")->origin().text() == "f.yaml:1:26");
  CHECK(node.at_path("b.lr")->as_int() == 1);
  CHECK(node.at_path("b.wd")->as_int() == 6);
  CHECK(node.at_path("c.lr")->as_int() == 1);
  CHECK(node.at_path("e.0")->as_int() == 7);
  CHECK(node.at_path("a")->defects().empty());
  CHECK(parse_yaml("a: {<<: 3}\n", "f.yaml").find("a")->defects().size() == 1);
  CHECK(parse_yaml("a: {\"<<\": 3}\n", "f.yaml").at_path("a.<<")->as_int() == 3);
}

TEST_CASE("deep nesting, self reference and alias bombs are errors") {
  CHECK(failure(std::string(5000, '[')) != "");
  CHECK(failure(std::string(150, '[') + std::string(150, ']')).find("nested deeper than 100 levels") !=
        std::string::npos);
  std::string deep;
  for (int i = 0; i < 150; ++i) deep += std::string(static_cast<size_t>(i), ' ') + "a:\n";
  CHECK(failure(deep).find("nested deeper") != std::string::npos);
  CHECK(failure("a: &a [*a]\n").find("alias") != std::string::npos);
  std::string bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n";
  std::string tower = "a0: &a0 [1]\n";
  for (int i = 1; i < 150; ++i) {
    const std::string alias = fmt::format("*a{}", i - 1);
    if (i < 12) bomb += fmt::format("a{0}: &a{0} [{1}, {1}, {1}, {1}, {1}, {1}, {1}, {1}, {1}, {1}]\n", i, alias);
    tower += fmt::format("a{0}: &a{0} [{1}]\n", i, alias);
  }
  CHECK(failure(bomb).find("more than 200000 values") != std::string::npos);
  CHECK(failure(tower).find("nested deeper") != std::string::npos);
}

TEST_CASE("variables are replaced inside strings in every spelling") {
  const Environment env = sample::variables({{"USER", "ada"}, {"N", "4"}, {"a.b", "dotted"}, {"E", ""}});
  const auto value = [&](const std::string& text) { return *parse_yaml("x: " + text, "f.yaml", env).find("x"); };
  CHECK(value("${USER}").as_string() == "ada");
  CHECK(value("${USER}").placeholder() == "${USER}");
  CHECK(value("$USER").as_string() == "ada");
  CHECK(value("/data/${USER}/$N/x").as_string() == "/data/ada/4/x");
  CHECK(value("${N}").as_int() == 4);
  CHECK(value("\"${N}\"").as_int() == 4);
  CHECK(value("${a.b}").as_string() == "dotted");
  CHECK(value("$a.b").as_string() == "dotted");
  CHECK(value("${ M , 5 }").as_int() == 5);
  CHECK(value("${M,a,b}").as_string() == "a,b");
  CHECK(value("${M,}").as_string() == "");
  CHECK(value("${oc.env:USER}").as_string() == "ada");
  CHECK(value("${oc.env:M,none}").is_null());
  CHECK(value("${E}").as_string() == "");
  for (const char* text : {"emb$", "$5", "a$|b", "${open", "$"}) CHECK(value(text).as_string() == text);
  const Node unset = value("pre${M}");
  REQUIRE(unset.defects().size() == 1);
  CHECK(unset.defects()[0].message == "environment variable 'M' is not set (in '${M}')");
}

TEST_CASE("an override of an unset variable makes its mistake vanish") {
  Report report;
  Node root = parse_yaml("recipe: ${M}\noptimizer: adamw\n", "f.yaml", sample::variables({}));
  read<sample::Recipe>(root, report);
  CHECK(report.problems().size() == 1);
  Report clean;
  apply(root, parse_overrides({"--recipe", "x"}, clean));
  CHECK(read<sample::Recipe>(root, clean).recipe == "x");
  CHECK(clean.text() == "");
}

TEST_CASE("JSON reads into the same tree and is never re-typed") {
  const Node node = parse_json("{\n \"a\": [1, 2.5, true, null],\n \"s\": \"none\", \"u\": \"\\ud83d\\ude00 $HOME\"\n}",
                               "config.json");
  CHECK(node.at_path("a.1")->as_double() == 2.5);
  CHECK(node.at_path("s")->as_string() == "none");
  CHECK(node.at_path("u")->as_string() == "\xF0\x9F\x98\x80 $HOME");
  CHECK(node.at_path("a")->origin().text() == "config.json:2");
  CHECK(node.at_path("s")->origin().text() == "config.json:3");
  CHECK(parse_json(dump_json(node), "again.json") == node);
}

TEST_CASE("damaged JSON, duplicate keys and deep JSON are errors") {
  for (const std::string& text : {std::string("{\"a\": }"), std::string(""), std::string("[1, NaN]"),
                                  std::string(100'000, '['), std::string("{\"a\": 1} x")}) {
    CHECK_THROWS_AS(parse_json(text, "c.json"), Error);
  }
  CHECK(parse_json("{\"a\": 1, \"a\": 2}", "c.json").defects().size() == 1);
  try {
    parse_json("{\n\"a\": 1,\n\"b\": oops\n}", "c.json");
    FAIL("must throw");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find("c.json:3: not valid JSON") == 0);
  }
}
