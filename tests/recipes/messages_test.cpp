// Wrong recipes and what is said about them, compared as whole texts. messages.txt is the table:
//
//   === a name for the case
//   $ --optimizer.lr x     words of the command line behind the recipe
//   @ 4                    ranks; 1 when left out
//   - lr: 1.0e-3           a line of recipe.yaml that is taken out (the first that reads so, whatever its indentation)
//   +lr: fast              what stands there instead, with all of its spaces; without a "-" before it, at the end
//   > the whole message    with every line of it
//
// The test runs in a folder with recipe.yaml, text.txt (1,200 letters), model (a tiny Llama) and other (a checkpoint
// folder of another model), which the reports call /here. With AUTOMODEL_UPDATE_MESSAGES=1 in the environment it writes
// the reports into the table.
#include <doctest/doctest.h>
#include <fmt/core.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/file.h"
#include "support/run_mesh.h"
#include "train/job.h"
#include "train/trainer.h"

using namespace automodel;

namespace {

const fs::path kHere = fs::path(AUTOMODEL_SOURCE_DIR) / "tests" / "recipes";

struct Change {
  std::vector<std::string> out;
  std::vector<std::string> in;
};

struct Case {
  std::string name;
  std::vector<std::string> words;
  int ranks = 1;
  std::vector<Change> changes;
  std::string report;
  std::vector<std::string> source;  // its lines in the table, without the report
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

std::string trimmed(const std::string& line) {
  const size_t begin = line.find_first_not_of(' ');
  return begin == std::string::npos ? "" : line.substr(begin, line.find_last_not_of(' ') + 1 - begin);
}

void add_line(Case& c, const std::string& line) {
  const std::string rest = line.size() > 2 ? line.substr(2) : "";
  if (line[0] == '>') {
    c.report += rest + "\n";
    return;
  }
  c.source.push_back(line);
  if (line[0] == '@') c.ranks = std::stoi(rest);
  if (line[0] == '$') {
    std::istringstream in(rest);
    for (std::string word; in >> word;) c.words.push_back(word);
  }
  if (line[0] == '-') {
    if (c.changes.empty() || !c.changes.back().in.empty()) c.changes.emplace_back();
    c.changes.back().out.push_back(trimmed(rest));
  }
  if (line[0] == '+') {
    if (c.changes.empty()) c.changes.emplace_back();
    c.changes.back().in.push_back(line.substr(1));
  }
}

std::vector<Case> read_table(const std::vector<std::string>& lines) {
  std::vector<Case> cases;
  for (const std::string& line : lines) {
    if (line.starts_with("=== ")) {
      cases.emplace_back();
      cases.back().name = line.substr(4);
    } else if (!line.empty() && !cases.empty()) {
      add_line(cases.back(), line);
    }
  }
  return cases;
}

std::string apply(const std::vector<Change>& changes, std::vector<std::string> recipe) {
  for (const Change& change : changes) {
    size_t at = recipe.size();
    for (const std::string& old : change.out) {
      at = 0;
      while (at < recipe.size() && trimmed(recipe[at]) != old) ++at;
      REQUIRE_MESSAGE(at < recipe.size(), "recipe.yaml has no line: " << old);
      recipe.erase(recipe.begin() + static_cast<std::ptrdiff_t>(at));
    }
    recipe.insert(recipe.begin() + static_cast<std::ptrdiff_t>(at), change.in.begin(), change.in.end());
  }
  std::string text;
  for (const std::string& line : recipe) text += line + "\n";
  return text;
}

// The folder in which the recipes mean something; the test's working directory while it lives.
class Place {
 public:
  Place()
      : before_(fs::current_path()),
        folder_(fs::temp_directory_path() / ("automodel-messages-" + std::to_string(::getpid()))) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    fs::current_path(folder_);
    std::ofstream("text.txt") << std::string(1200, 'a');
    fs::copy(fs::path(AUTOMODEL_SOURCE_DIR) / "tests" / "golden" / "llama", "model");
    std::ofstream("broken.json") << "{\"model_type\": \"llama\",\n";
    std::ofstream("ids.bin") << "these are no tokens";
    save_other();
  }
  ~Place() {
    fs::current_path(before_);
    fs::remove_all(folder_);
  }

 private:
  // One step of a model with one layer more.
  void save_other() {
    fs::copy(kHere / "recipe.yaml", "recipe.yaml");
    test::run_mesh(1, [](comm::World& world) {
      train::Job job = train::prepare({"recipe.yaml",
                                       {"--checkpoint.checkpoint_dir", "other", "--model.config.num_hidden_layers", "3",
                                        "--step_scheduler.max_steps", "1", "--lr_scheduler.lr_warmup_steps", "0"}},
                                      1, true);
      train::Trainer(job, world).run([] { return 0; });
    });
  }

  fs::path before_;
  fs::path folder_;
};

// What the program prints.
std::string report_of(const Case& c, const std::vector<std::string>& recipe) {
  std::ofstream("recipe.yaml") << apply(c.changes, recipe);
  try {
    train::prepare({"recipe.yaml", c.words}, c.ranks, true);
  } catch (const Error& error) {
    std::string text = fmt::format("automodel: {} error: {}\n", name_of(error.fault()), error.what());
    const std::string here = fs::current_path().string();
    for (size_t at = text.find(here); at != std::string::npos; at = text.find(here))
      text.replace(at, here.size(), "/here");
    return text;
  }
  return "";
}

void write_table(const std::vector<std::string>& old, const std::vector<Case>& cases,
                 const std::vector<std::string>& reports) {
  std::ofstream out(kHere / "messages.txt");
  for (const std::string& line : old) {
    if (line.starts_with("===")) break;
    out << line << "\n";
  }
  for (size_t i = 0; i < cases.size(); ++i) {
    out << "=== " << cases[i].name << "\n";
    for (const std::string& line : cases[i].source) out << line << "\n";
    for (const std::string& line : lines_of(reports[i])) out << (line.empty() ? ">" : "> " + line) << "\n";
    if (i + 1 < cases.size()) out << "\n";
  }
}

}  // namespace

TEST_CASE("Every wrong recipe of the table is reported word for word") {
  const std::vector<std::string> lines = lines_of(read_file(kHere / "messages.txt"));
  const std::vector<std::string> recipe = lines_of(read_file(kHere / "recipe.yaml"));
  const std::vector<Case> cases = read_table(lines);
  CHECK(cases.size() >= 60);
  const Place place;
  std::set<std::string> names;
  std::vector<std::string> reports;
  for (const Case& c : cases) {
    CAPTURE(c.name);
    CHECK(names.insert(c.name).second);
    reports.push_back(report_of(c, recipe));
    CHECK_MESSAGE(!reports.back().empty(), "the recipe is accepted");
    CHECK(reports.back() == c.report);
  }
  if (std::getenv("AUTOMODEL_UPDATE_MESSAGES")) write_table(lines, cases, reports);
}

TEST_CASE("The recipe that the table changes is right as it stands") {
  const Place place;
  const train::Job job = train::prepare({"recipe.yaml", {}}, 1, true);
  CHECK(job.scheduler->total_steps() == 20);
}
