// Internal to this room: the recursive walk over a tree and a type behind config::read. A value that cannot be read
// keeps its default and the walk goes on, so that all mistakes come out in one run. `damage_` counts values that could
// not be read: checks of a struct run only when none of its values is damaged, because they would complain about
// defaults that the user never wrote.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "config/node.h"
#include "config/report.h"
#include "config/schema.h"

namespace automodel::config {

class Walk {
 public:
  // `root` is the type of the whole configuration: where a misplaced key may belong.
  Walk(Report& report, const Type& root) : report_(report), root_(root) {}

  // Reports what the reader of the file left in the tree.
  void defects(const Node& node, const std::string& path);

  // Reads a value of any type; false when it could not be read. `field` holds the rules, or is null.
  bool value(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field);

 private:
  using Structs = std::vector<const Type*>;

  void damage(const std::string& path, std::string message, std::string hint, const Origin& origin);
  void expected(const Type& type, const Node& node, const std::string& path, const FieldSpec* field,
                std::string hint = "");

  // read_scalar.cpp
  void scalar(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field);
  void text(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field);
  void enumeration(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field);
  void number(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field);
  bool bounds(double x, const Node& node, const std::string& path, const FieldSpec* field);

  // read.cpp
  void optional(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field);
  void list(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field);
  void map(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field);
  void structure(const Type& type, const Node& node, void* out, const std::string& path, const TargetSpec* target);
  void run_checks(const Schema& schema, const Node& node, void* out, const std::string& path);
  void entry_of(const Schema& schema, const Entry& entry, void* out, const std::string& path,
                std::set<const FieldSpec*>& given);
  void member(const FieldSpec& field, const Entry& entry, void* out, const std::string& here);
  bool refuse(const Schema& schema, const FieldSpec& field, const Entry& entry, const std::string& here);
  void unknown(const Schema& schema, const Entry& entry, const std::string& here);
  std::string elsewhere(const std::string& key) const;

  // read_variant.cpp
  std::pair<const Type*, const TargetSpec*> find_target(const Structs& types, const Node& node,
                                                        const std::string& path);
  void variant(const Type& type, const Node& node, void* out, const std::string& path, const FieldSpec* field);
  void tagged(const Type& type, const Structs& structs, const Node& node, void* out, const std::string& path,
              const FieldSpec* field);
  void missing_target(const Structs& structs, const Node& node, const std::string& path);
  bool plain_alternative(const Type& type, const Node& node, void* out, const std::string& path,
                         const FieldSpec* field);

  Report& report_;
  const Type& root_;
  size_t damage_ = 0;
};

// "a.b" from "a" and "b".
std::string join_path(const std::string& path, std::string_view key);

// The name that a scalar means in an enum, or null pointer. What was written counts before what YAML made of it.
const EnumTable::Name* enum_name(const EnumTable& table, const Node& node);

}  // namespace automodel::config
