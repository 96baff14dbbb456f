// The resolved configuration as text: every key with its value, so that parsing the dump gives the same struct.
#pragma once

#include <string>
#include <vector>

#include "config/node.h"
#include "config/schema.h"

namespace automodel::config {

// The tree of an erased value with all its keys. `read_from` is the node that the value was read from, or null pointer:
// it gives origins, placeholders of the environment, the `_target_` as it was written, and the keys without a member.
Node write(const Type& type, const void* value, const Node* read_from = nullptr);

template <class T>
Node to_node(const T& value, const Node* read_from = nullptr) {
  return write(type_of<T>(), &value, read_from);
}

struct DumpOptions {
  bool redact = true;    // print ****** for secrets: secret() fields, and keys such as api_key, token, password
  bool origins = false;  // a comment behind each value says where it was written
};

// YAML text.
std::string dump(const Node& node, const DumpOptions& options = {});

template <class T>
requires(!std::is_same_v<T, Node>) std::string
    dump(const T& value, const Node* read_from = nullptr, const DumpOptions& options = {}) {
  return dump(to_node(value, read_from), options);
}

// One value of a listing: "optimizer.lr", "1.0e-05", "--optimizer.lr".
struct Setting {
  std::string key;
  std::string value;
  std::string origin;
};
// Every scalar, list of scalars and empty section, in order, with secrets masked.
std::vector<Setting> settings(const Node& node);

// Whether a key names a secret: password, secret, token, apikey, api_key, authorization or auth as whole words between
// underscores, but not the vocabulary of a tokenizer (bos_token, eos_token_id).
bool names_secret(std::string_view key);

}  // namespace automodel::config
