// Describe a struct once, next to where it is declared; reading, checking, overriding, dumping and explaining follow.
//
//   struct AdamWConfig {                                   // defaults live here and nowhere else
//     double lr = 1e-3;
//     std::array<double, 2> betas{0.9, 0.999};
//     std::optional<DType> moment_dtype;
//     Style style = Style::kCosine;
//   };
//   void describe(config::Fields<AdamWConfig>& f);         // in the header of the struct: found by its namespace
//   void describe(config::Names<Style>& n);
//
//   void describe(config::Fields<AdamWConfig>& f) {        // in the source
//     f.doc("AdamW with decoupled weight decay.");
//     f.target({"torch.optim.AdamW"});                     // the `_target_` texts that mean this struct
//     f.target({"adamw"}, [](AdamWConfig& c) { c.lr = 1e-4; });      // a short name with a default of its own
//     f("lr", &AdamWConfig::lr, "Peak learning rate.").above(0);
//     f("betas", &AdamWConfig::betas, "Decay of the running means.").each().at_least(0).below(1);
//     f("moment_dtype", &AdamWConfig::moment_dtype, "Type of the moments.").alias("exp_avg_dtype").none_word("auto");
//     f("style", &AdamWConfig::style, "How it decays.");
//     f.key("foreach").no_effect("updates are always fused");
//     f.check([](const AdamWConfig& c, config::Problems& p) {
//       if (c.betas[1] < c.betas[0]) p.add("betas", "the second is below the first", "swap them");
//     });
//   }
//   void describe(config::Names<Style>& n) { n("cosine", Style::kCosine)("linear", Style::kLinear); }
//
// A member is bool, int, int64_t, double, std::string, DType, an enum with Names, another described struct, Node (kept
// as it is), or std::optional, std::vector, std::array, std::map<std::string, T> or std::variant of these. A variant
// holds described structs chosen by `_target_`, and possibly scalars or lists chosen by what is written.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "config/node.h"
#include "config/report.h"
#include "config/type.h"

namespace automodel::config {

// A bound on a number, or on every number in a container.
struct Bound {
  enum class Kind { kAbove, kAtLeast, kBelow, kAtMost };
  Kind kind;
  double limit;

  bool holds(double x) const;
  std::string text() const;  // "at least 1"
};

struct FieldSpec {
  std::string name;  // a key without a member may end in '*': all keys that start so
  std::string doc;
  Type::Get type = nullptr;  // null: a key without a member
  size_t offset = 0;
  std::vector<std::string> aliases;
  std::vector<Bound> bounds;
  std::vector<std::string> choices;
  std::vector<std::string> none_words;
  std::vector<std::pair<std::function<bool(const void*)>, std::string>> musts;
  bool required = false;
  bool secret = false;
  bool null_is_default = false;
  bool one_or_list = false;
  bool group = false;  // takes `name`, `name_x`, `name_y`; the member is a map from "default", "x", "y"
  std::string default_target;
  std::string no_effect;
  std::string refused;
  std::string renamed_to;
  std::function<bool(const Node&)> harmless;  // of refused

  bool matches(std::string_view key) const;
};

struct TargetSpec {
  std::vector<std::string> names;  // the first is the one that dumps use
  std::function<void(void*)> preset;
};

struct CheckSpec {
  size_t offset = 0;
  std::function<void(const void*, Problems&)> run;
};

struct Schema {
  std::string doc;
  std::deque<FieldSpec> fields;
  std::vector<TargetSpec> targets;
  std::vector<CheckSpec> checks;
  bool allow_unknown = false;
  bool null_means_default = false;
  std::optional<size_t> unknown_offset;  // of the Node member that keeps surplus keys
  std::optional<size_t> target_offset;   // of the string member that keeps the canonical target
  std::shared_ptr<const void> sample;    // a struct with its defaults

  // The field that a key belongs to (name, alias, group or wildcard), or null pointer.
  const FieldSpec* find(std::string_view key) const;
  // The target that a `_target_` text names, or null pointer. A text names a target when it is one of its names, or the
  // last component of one (the last two for Class.method), or has the same first and last components as one.
  const TargetSpec* find_target(std::string_view text) const;

  // What Fields calls.
  FieldSpec& add(std::string_view name, std::string_view doc, Type::Get type, size_t offset);
  void add_target(std::initializer_list<std::string_view> names, std::function<void(void*)> preset);
  void add_check(std::function<void(const void*, Problems&)> run);
  void flatten(const Schema& other, size_t offset);
};

// Whether a section is switched off: null, false, {} or `enabled: false` / `enable: false`. For refused().
bool is_off(const Node& node);

namespace detail {

template <class T>
struct Strip {
  using type = T;
};
template <class T>
struct Strip<std::optional<T>> {
  using type = T;
};
template <class T>
struct Element {};
template <class T>
struct Element<std::vector<T>> {
  using type = T;
};
template <class T, size_t n>
struct Element<std::array<T, n>> {
  using type = T;
};
template <class T>
struct Element<std::map<std::string, T>> {
  using type = T;
};
template <class T>
struct Element<std::optional<T>> : Element<T> {};

}  // namespace detail

using Words = std::initializer_list<std::string_view>;

// A predicate that accepts the given scalars, compared as text; "none" and "null" are the same. For refused().
std::function<bool(const Node&)> any_of(Words scalars);

// What Field does, without its type: kept out of line so that descriptions compile quickly.
class FieldBuilder {
 public:
  explicit FieldBuilder(FieldSpec& spec) : spec_(spec) {}

 protected:
  using Holds = std::function<bool(const void*)>;
  using Harmless = std::function<bool(const Node&)>;
  void add_bound(Bound::Kind kind, double limit);
  void add_choices(Words choices);
  void add_must(Holds holds, std::string_view sentence);
  void add_alias(std::string_view name);
  void add_none_word(std::string_view word);
  void set_refused(std::string_view sentence, Harmless harmless);
  void set_refused(std::string_view sentence, Words harmless);
  static void set(std::string& text, std::string_view value);

  FieldSpec& spec_;
};

// A reference to a field under description; the rules chain. M is the member's type (void for a key without a member).
template <class M>
class Field : public FieldBuilder {
 public:
  using FieldBuilder::FieldBuilder;

  // Bounds of a number (of an optional one: when present).
  Field& above(double x) { return bound(Bound::Kind::kAbove, x); }
  Field& at_least(double x) { return bound(Bound::Kind::kAtLeast, x); }
  Field& below(double x) { return bound(Bound::Kind::kBelow, x); }
  Field& at_most(double x) { return bound(Bound::Kind::kAtMost, x); }
  Field& within(double a, double b) { return at_least(a).at_most(b); }
  // The rules that follow hold for each element of a list, array or map.
  auto each() { return Field<typename detail::Element<M>::type>(spec_); }
  // Text must be one of these.
  Field& one_of(Words choices) {
    static_assert(std::is_same_v<typename detail::Strip<M>::type, std::string>, "one_of() is for text");
    return add_choices(choices), *this;
  }
  // Any other rule on the whole member; the sentence says what must hold: "must be a power of two".
  template <class F>
  Field& must(F holds, std::string_view sentence) {
    add_must([holds](const void* value) { return holds(*static_cast<const M*>(value)); }, sentence);
    return *this;
  }

  Field& required() { return spec_.required = true, *this; }
  // Another accepted name of the key.
  Field& alias(std::string_view name) { return add_alias(name), *this; }
  // The key is not taken any more; the error says where it went.
  Field& renamed_to(std::string_view where) { return set(spec_.renamed_to, where), *this; }
  // Dumps mask the value whatever the key is called.
  Field& secret() { return spec_.secret = true, *this; }
  // Accepted, and said to do nothing: a note when it is written, and in explain().
  Field& no_effect(std::string_view why) { return set(spec_.no_effect, why), *this; }
  // Any value is an error with this sentence (what is not supported, and what to do), except null, the default, and
  // what `harmless` accepts.
  Field& refused(std::string_view sentence, Harmless harmless = nullptr) {
    return set_refused(sentence, std::move(harmless)), *this;
  }
  // The same with harmless scalars as written: {"1", "false", "none"}.
  Field& refused(std::string_view sentence, Words harmless) { return set_refused(sentence, harmless), *this; }
  // An explicit null means the default.
  Field& null_is_default() { return spec_.null_is_default = true, *this; }
  // For optional members: this text means null too.
  Field& none_word(std::string_view word) { return add_none_word(word), *this; }
  // For lists: a single value is a list of one.
  Field& one_or_list() { return spec_.one_or_list = true, *this; }
  // For variants: the target when `_target_` is left out.
  Field& default_target(std::string_view target) { return set(spec_.default_target, target), *this; }

 private:
  Field& bound(Bound::Kind kind, double x) {
    using Number = typename detail::Strip<M>::type;
    static_assert(std::is_arithmetic_v<Number> && !std::is_same_v<Number, bool>,
                  "bounds are for numbers; use each() for the elements of a container");
    return add_bound(kind, x), *this;
  }
};

// Handed to `void describe(config::Fields<T>&)`.
template <class T>
class Fields {
 public:
  explicit Fields(Schema& schema) : schema_(schema) {}

  void doc(std::string_view text) { schema_.doc = text; }

  // A key and its member.
  template <class M, class B>
  Field<M> operator()(std::string_view name, M B::*member, std::string_view doc) {
    return Field<M>(schema_.add(name, doc, &type_of<M>, offset_of(member)));
  }
  // A key without a member: give it no_effect(), refused() or renamed_to(). "_*" stands for all keys that start with _.
  Field<void> key(std::string_view name, std::string_view doc = "") {
    return Field<void>(schema_.add(name, doc, nullptr, 0));
  }
  // The keys `name`, `name_x`, `name_y`, ... in one map, under "default", "x", "y", ...
  template <class M, class B>
  Field<std::map<std::string, M>> group(std::string_view name, std::map<std::string, M> B::*member,
                                        std::string_view doc) {
    FieldSpec& spec = schema_.add(name, doc, &type_of<std::map<std::string, M>>, offset_of(member));
    spec.group = true;
    return Field<std::map<std::string, M>>(spec);
  }
  // The keys of another described struct stand among the keys of this one, and its checks run too. Its targets and its
  // allow_unknown() do not count here.
  template <class M, class B>
  void flatten(M B::*member) {
    schema_.flatten(schema_of<M>(), offset_of(member));
  }

  // `_target_` texts that mean this struct, the canonical one first; the preset sets what differs from the defaults.
  // May be given several times. A struct with targets may also be written as a bare text: `loss_fn: masked_ce`.
  void target(Words names) { schema_.add_target(names, nullptr); }
  template <class F>
  void target(Words names, F preset) {
    schema_.add_target(names, [preset](void* value) { preset(*static_cast<T*>(value)); });
  }
  // A member that keeps the canonical name of the target, for structs with several.
  template <class B>
  void keep_target(std::string B::*member) {
    schema_.target_offset = offset_of(member);
  }

  // Surplus keys are not mistakes; the Node member, when given, keeps them (a map).
  void allow_unknown() { schema_.allow_unknown = true; }
  template <class B>
  void allow_unknown(Node B::*member) {
    schema_.allow_unknown = true;
    schema_.unknown_offset = offset_of(member);
  }
  // An explicit null of any key means its default.
  void null_means_default() { schema_.null_means_default = true; }

  // A check of the whole struct. It runs when all its values could be read.
  template <class F>
  void check(F run) {
    schema_.add_check([run](const void* value, Problems& problems) { run(*static_cast<const T*>(value), problems); });
  }

 private:
  template <class M, class B>
  size_t offset_of(M B::*member) {
    const T& sample = *static_cast<const T*>(schema_.sample.get());
    return static_cast<size_t>(reinterpret_cast<const char*>(&(sample.*member)) -
                               reinterpret_cast<const char*>(&sample));
  }
  Schema& schema_;
};

// The schema of a described struct, made on first use.
template <class T>
const Schema& schema_of() {
  static const Schema schema = [] {
    Schema made;
    made.sample = std::make_shared<const T>();
    Fields<T> fields(made);
    describe(fields);
    return made;
  }();
  return schema;
}

}  // namespace automodel::config
