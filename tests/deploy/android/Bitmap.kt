package android.graphics

class Bitmap(val width: Int, val height: Int) {
  fun getPixels(pixels: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int) {}
}
