// A mesh for people: which ranks sit where, and who talks to whom.
#pragma once

#include <string>

#include "distributed/mesh_context.h"

namespace automodel::distributed {

struct PictureOptions {
  int gpus_per_node = 0;  // consecutive ranks share a node; 0: unknown
  int max_rows = 24;      // longer pictures leave out their middle
  int max_columns = 16;
};

// "pp 2 x dp_shard 4 x tp 2 = 16 ranks": the axes above 1.
std::string mesh_line(const MeshContext& context);

// The ranks as a grid, the innermost axis along a row, with the nodes when they are known:
//
//                        tp 0  tp 1
//   pp 0  dp_shard 0        0     1   node 0
//         dp_shard 1        2     3
std::string mesh_picture(const MeshContext& context, const PictureOptions& options = {});

// One line per axis above 1: its size, how many groups it has, the first of them, and whether groups stay inside a
// node.
std::string group_table(const MeshContext& context, const PictureOptions& options = {});

}  // namespace automodel::distributed
