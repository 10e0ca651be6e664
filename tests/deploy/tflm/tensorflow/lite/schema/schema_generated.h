// What main.cc uses of TensorFlow Lite Micro, by the names and types of its headers, for a machine without its sources.
// Behind it the package tflite-micro computes, on the bytes of the array that main.cc was compiled with.
#pragma once
#define TFLITE_SCHEMA_VERSION (3)
namespace tflite {
struct Model {
  int version() const { return TFLITE_SCHEMA_VERSION; }
};
inline const Model* GetModel(const void* buffer) { return static_cast<const Model*>(buffer); }
}  // namespace tflite
