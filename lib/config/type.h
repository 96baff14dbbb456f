// The types that members of described structs may have, erased: one Type per C++ type, made on first use. What is done
// with a Type (reading, writing, explaining) is plain code in the sources of this room.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
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
#include "core/dtype.h"

namespace automodel::config {

struct Schema;
struct Type;

// The schema of a described struct (config/schema.h).
template <class T>
const Schema& schema_of();
template <class T>
const Type& type_of();

// What the values of an enum are called. The first name of a value is the one that dumps use; later ones are aliases.
// "true", "false", "none" and "null" may be names: they match what is written as a boolean or null.
struct EnumTable {
  struct Name {
    std::string name;
    int64_t value;
    std::string doc;
  };
  std::vector<Name> names;
  bool ignore_case = false;

  const Name* find(std::string_view text) const;
  const Name* of(int64_t value) const;
  void add(std::string_view name, int64_t value, std::string_view doc);
};

// Handed to `void describe(config::Names<E>&)`.
template <class E>
class Names {
 public:
  explicit Names(EnumTable& table) : table_(table) {}
  Names& operator()(std::string_view name, E value, std::string_view doc = "") {
    return table_.add(name, static_cast<int64_t>(value), doc), *this;
  }
  Names& ignore_case() {
    table_.ignore_case = true;
    return *this;
  }

 private:
  EnumTable& table_;
};

// The type of a member, erased. All logic that uses it is plain code in the sources of this room.
struct Type {
  enum class Kind {
    kBool,
    kInt32,
    kInt64,
    kDouble,
    kString,
    kDType,
    kEnum,
    kNode,
    kOptional,
    kList,
    kArray,
    kMap,
    kStruct,
    kVariant
  };
  using Get = const Type& (*)();  // late, so that a struct may contain itself in a list
  using Visit = std::function<void(const std::string& key, const void* element)>;

  Kind kind;
  std::shared_ptr<void> (*make)() = nullptr;  // a value of the type, as its constructor leaves it
  Get element = nullptr;                      // of optional, list, array, map
  size_t count = 0;                           // of array
  const Schema& (*schema)() = nullptr;        // of struct
  const EnumTable& (*names)() = nullptr;      // of enum
  std::vector<Get> alternatives;              // of variant

  // Containers: empty it; make an element (index of array and variant, key of map) and return it; visit the elements.
  void (*clear)(void*) = nullptr;
  void* (*add)(void*, const std::string& key, size_t index) = nullptr;
  void (*each)(const void*, const Visit&) = nullptr;
  size_t (*index)(const void*) = nullptr;  // of variant
  int64_t (*get)(const void*) = nullptr;   // of enum
  void (*set)(void*, int64_t) = nullptr;
};

namespace detail {

template <class T>
struct TypeOf {  // a described struct or an enum
  static Type make() {
    Type type{};
    if constexpr (std::is_enum_v<T>) {
      type.kind = Type::Kind::kEnum;
      type.names = []() -> const EnumTable& {
        static const EnumTable table = [] {
          EnumTable made;
          Names<T> names(made);
          describe(names);
          return made;
        }();
        return table;
      };
      type.get = [](const void* value) { return static_cast<int64_t>(*static_cast<const T*>(value)); };
      type.set = [](void* value, int64_t number) { *static_cast<T*>(value) = static_cast<T>(number); };
    } else {
      static_assert(std::is_class_v<T>,
                    "a member is bool, int, int64_t, double, text, DType, an enum or a described struct");
      type.kind = Type::Kind::kStruct;
      type.schema = &schema_of<T>;
    }
    return type;
  }
};

template <Type::Kind k>
struct Scalar {
  static Type make() {
    Type type{};
    type.kind = k;
    return type;
  }
};
template <>
struct TypeOf<bool> : Scalar<Type::Kind::kBool> {};
template <>
struct TypeOf<int> : Scalar<Type::Kind::kInt32> {};
template <>
struct TypeOf<int64_t> : Scalar<Type::Kind::kInt64> {};
template <>
struct TypeOf<double> : Scalar<Type::Kind::kDouble> {};
template <>
struct TypeOf<std::string> : Scalar<Type::Kind::kString> {};
template <>
struct TypeOf<DType> : Scalar<Type::Kind::kDType> {};
template <>
struct TypeOf<Node> : Scalar<Type::Kind::kNode> {};

template <class T>
struct TypeOf<std::optional<T>> {
  static Type make() {
    Type type{};
    type.kind = Type::Kind::kOptional;
    type.element = &type_of<T>;
    type.clear = [](void* value) { static_cast<std::optional<T>*>(value)->reset(); };
    type.add = [](void* value, const std::string&, size_t) -> void* {
      return &static_cast<std::optional<T>*>(value)->emplace();
    };
    type.each = [](const void* value, const Type::Visit& visit) {
      const auto& optional = *static_cast<const std::optional<T>*>(value);
      if (optional) visit("", &*optional);
    };
    return type;
  }
};

template <class T>
struct TypeOf<std::vector<T>> {
  static_assert(!std::is_same_v<T, bool>, "std::vector<bool> has no addressable elements");
  static Type make() {
    Type type{};
    type.kind = Type::Kind::kList;
    type.element = &type_of<T>;
    type.clear = [](void* value) { static_cast<std::vector<T>*>(value)->clear(); };
    type.add = [](void* value, const std::string&, size_t) -> void* {
      return &static_cast<std::vector<T>*>(value)->emplace_back();
    };
    type.each = [](const void* value, const Type::Visit& visit) {
      for (const T& element : *static_cast<const std::vector<T>*>(value)) visit("", &element);
    };
    return type;
  }
};

template <class T, size_t n>
struct TypeOf<std::array<T, n>> {
  static Type make() {
    Type type{};
    type.kind = Type::Kind::kArray;
    type.element = &type_of<T>;
    type.count = n;
    type.clear = [](void*) {};
    type.add = [](void* value, const std::string&, size_t index) -> void* {
      return &(*static_cast<std::array<T, n>*>(value))[index];
    };
    type.each = [](const void* value, const Type::Visit& visit) {
      for (const T& element : *static_cast<const std::array<T, n>*>(value)) visit("", &element);
    };
    return type;
  }
};

template <class T>
struct TypeOf<std::map<std::string, T>> {
  static Type make() {
    Type type{};
    type.kind = Type::Kind::kMap;
    type.element = &type_of<T>;
    type.clear = [](void* value) { static_cast<std::map<std::string, T>*>(value)->clear(); };
    type.add = [](void* value, const std::string& key, size_t) -> void* {
      return &(*static_cast<std::map<std::string, T>*>(value))[key];
    };
    type.each = [](const void* value, const Type::Visit& visit) {
      for (const auto& [key, element] : *static_cast<const std::map<std::string, T>*>(value)) visit(key, &element);
    };
    return type;
  }
};

template <class... Ts>
struct TypeOf<std::variant<Ts...>> {
  using Variant = std::variant<Ts...>;
  template <class T>
  static void* emplace(void* value) {
    return &static_cast<Variant*>(value)->template emplace<T>();
  }
  static Type make() {
    Type type{};
    type.kind = Type::Kind::kVariant;
    type.alternatives = {&type_of<Ts>...};
    type.add = [](void* value, const std::string&, size_t index) -> void* {
      constexpr std::array<void* (*)(void*), sizeof...(Ts)> makers{&emplace<Ts>...};
      return makers[index](value);
    };
    type.each = [](const void* value, const Type::Visit& visit) {
      std::visit([&](const auto& held) { visit("", &held); }, *static_cast<const Variant*>(value));
    };
    type.index = [](const void* value) { return static_cast<const Variant*>(value)->index(); };
    return type;
  }
};

}  // namespace detail

template <class T>
const Type& type_of() {
  static const Type type = [] {
    Type made = detail::TypeOf<T>::make();
    made.make = []() -> std::shared_ptr<void> { return std::make_shared<T>(); };
    return made;
  }();
  return type;
}

}  // namespace automodel::config
