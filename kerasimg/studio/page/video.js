// The camera of this device.

const REASONS = {
  NotAllowedError: "The camera was not allowed.",
  NotFoundError: "There is no camera.",
  NotReadableError: "The camera is in use by another program.",
};

export class Video {
  constructor(view) {
    this.view = view;
    this.stream = null;
  }

  async start() {
    if (!navigator.mediaDevices) throw new Error("This browser gives the camera only to pages on this machine (127.0.0.1) or with https.");
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      throw new Error(REASONS[error.name] ?? `The camera cannot be used: ${error.message}`);
    }
    this.view.srcObject = this.stream;
    await this.view.play();
    this.view.hidden = false;
  }

  stop() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.stream = null;
    this.view.srcObject = null;
    this.view.hidden = true;
  }

  /** The frame that is seen now, as a JPEG. */
  frame(longest = 1024) {
    const scale = Math.min(1, longest / Math.max(this.view.videoWidth, this.view.videoHeight));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(this.view.videoWidth * scale);
    canvas.height = Math.round(this.view.videoHeight * scale);
    canvas.getContext("2d").drawImage(this.view, 0, 0, canvas.width, canvas.height);
    return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
  }
}
