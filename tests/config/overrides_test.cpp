// The override rows of the recipe specification.
#include <doctest/doctest.h>

#include "config/sample.h"

using namespace automodel::config;

namespace {

// The tree that the tokens make from nothing.
Node after(const std::vector<std::string>& tokens, std::map<std::string, std::string> environment = {}) {
  Report report;
  Node root = Node::map();
  apply(root, parse_overrides(tokens, report, sample::variables(std::move(environment))));
  CHECK(report.text() == "");
  return root;
}

std::string mistake(const std::vector<std::string>& tokens) {
  Report report;
  parse_overrides(tokens, report, sample::variables({}));
  return report.text();
}

}  // namespace

TEST_CASE("a value stands behind = or in the next token") {
  CHECK(after({"--a.b=1"}).at_path("a.b")->as_int() == 1);
  CHECK(after({"--a.b", "1"}).at_path("a.b")->as_int() == 1);
  CHECK(after({"---a", "1"}).at_path("a")->as_int() == 1);
}

TEST_CASE("a bare flag is true") {
  CHECK(after({"--a.b"}).at_path("a.b")->as_bool());
  const Node node = after({"--a.b", "--c", "2"});
  CHECK(node.at_path("a.b")->as_bool());
  CHECK(node.at_path("c")->as_int() == 2);
}

TEST_CASE("negative numbers and single dashes are values") {
  CHECK(after({"--lr", "-1e-5"}).at_path("lr")->as_double() == -1e-5);
  CHECK(after({"--lr", "-1"}).at_path("lr")->as_int() == -1);
  CHECK(after({"--x", "-x"}).at_path("x")->as_string() == "-x");
}

TEST_CASE("the first = splits and the rest is the value") {
  CHECK(after({"--x=a=b"}).at_path("x")->as_string() == "a=b");
  CHECK(after({"--x="}).at_path("x")->as_string() == "");
}

TEST_CASE("a scalar in the way becomes a section and the last override wins") {
  const Node node = after({"--a", "1", "--a.b", "2"});
  REQUIRE(node.find("a")->is_map());
  CHECK(node.find("a")->entries().size() == 1);
  CHECK(node.at_path("a.b")->as_int() == 2);
  CHECK(after({"--a", "1", "--a", "2"}).at_path("a")->as_int() == 2);
  CHECK(after({"--a", "[1]", "--a.0.b", "2"}).find("a")->find("0")->find("b")->as_int() == 2);
}

TEST_CASE("stray words and empty keys are errors") {
  CHECK(mistake({"stray", "--k", "v"}).find("stray: a stray word on the command line") == 0);
  CHECK(mistake({"-k", "v"}).find("stray word") != std::string::npos);
  CHECK(mistake({"--"}).find("not a path of keys") != std::string::npos);
  CHECK(mistake({"--a..b", "1"}).find("'a..b' is not a path of keys") != std::string::npos);
  CHECK(mistake({"--=1"}).find("not a path") != std::string::npos);
}

TEST_CASE("variables are replaced and the result is translated again") {
  CHECK(after({"--f", "${V,3}"}).at_path("f")->as_int() == 3);
  CHECK(after({"--f", "${V,3}"}, {{"V", "x"}}).at_path("f")->as_string() == "x");
  CHECK(after({"--f", "${V,3}"}, {{"V", "x"}}).at_path("f")->placeholder() == "${V,3}");
}

TEST_CASE("an unset variable is an error at the flag that names it") {
  Report report;
  Node root = Node::map();
  apply(root, parse_overrides({"--recipe", "$V"}, report, sample::variables({})));
  read<sample::Recipe>(root, report);
  const std::string text = report.text();
  CHECK(text.find("--recipe: environment variable 'V' is not set (in '$V')") != std::string::npos);
  CHECK(text.find("export V, or give a default: ${V,default}") != std::string::npos);
}

TEST_CASE("null, ~ and lists of bare words mean what they say") {
  CHECK(after({"--x", "null"}).at_path("x")->is_null());
  CHECK(after({"--x=~"}).at_path("x")->is_null());
  CHECK(after({"--x=none"}).at_path("x")->is_null());
  const Node node = after({"--peft.target_modules", "[q_proj, v_proj]"});
  REQUIRE(node.at_path("peft.target_modules")->items().size() == 2);
  CHECK(node.at_path("peft.target_modules.1")->as_string() == "v_proj");
  CHECK(after({"--p", "['q_proj','v_proj']"}).at_path("p.0")->as_string() == "q_proj");
  CHECK(after({"--p", "{lr: 1e-5, eps: none}"}).at_path("p.lr")->as_double() == 1e-5);
}

TEST_CASE("lists of bare words may hold variables") {
  const Node node = after({"--x", "[${A}, b, ${C,4}]"}, {{"A", "q_proj"}});
  REQUIRE(node.find("x")->is_list());
  CHECK(node.at_path("x.0")->as_string() == "q_proj");
  CHECK(node.at_path("x.0")->placeholder() == "${A}");
  CHECK(node.at_path("x.2")->as_int() == 4);
}

TEST_CASE("texts with brackets that are no lists stay texts") {
  CHECK(after({"--x", "train[:100]"}).at_path("x")->as_string() == "train[:100]");
  CHECK(after({"--x", "{{ messages }}"}).at_path("x")->as_string() == "{{ messages }}");
  CHECK(after({"--x", "{% if a %}"}).at_path("x")->as_string() == "{% if a %}");
}

TEST_CASE("dicts become sections and quotes keep text") {
  const Node node = after({"--a", "{'x': {'y': 1}}", "--a.x.z", "2"});
  CHECK(node.at_path("a.x.y")->as_int() == 1);
  CHECK(node.at_path("a.x.z")->as_int() == 2);
  CHECK(after({"--a.b", "'123'"}).at_path("a.b")->as_string() == "123");
}

TEST_CASE("the recipe's path may be given with --config or -c") {
  Report report;
  CHECK(*parse_overrides({"--config", "a.yaml", "--x", "1", "-c", "b.yaml"}, report).config_path == "b.yaml");
  CHECK(*parse_overrides({"--config=c.yaml"}, report).config_path == "c.yaml");
  CHECK(report.empty());
  CHECK(mistake({"-c"}).find("the path of the recipe is missing") != std::string::npos);
}

TEST_CASE("an override keeps its siblings and says where it came from") {
  Report report;
  Node root = parse_yaml("optimizer:\n  lr: 1\n  eps: 2\n", "r.yaml");
  apply(root, parse_overrides({"--optimizer.lr=3"}, report));
  CHECK(root.at_path("optimizer.lr")->origin().text() == "--optimizer.lr");
  CHECK(root.at_path("optimizer.eps")->origin().text() == "r.yaml:3:8");
  CHECK(root.at_path("optimizer")->entries().size() == 2);
}

TEST_CASE("a wrong override is reported at its flag with a caret") {
  Report report;
  Node root = parse_yaml("recipe: x\noptimizer: {_target_: adamw}\n", "r.yaml");
  apply(root, parse_overrides({"--optimizer.lr=fast", "--seed", "1.5"}, report));
  read<sample::Recipe>(root, report);
  CHECK(report.text() ==
        "--optimizer.lr: expected a number above 0, got 'fast'\n"
        "    --optimizer.lr=fast\n"
        "                   ^\n"
        "--seed: expected a whole number, got 1.5\n"
        "    --seed 1.5\n"
        "           ^\n");
}
