// The microphone of the browser: samples for the kernel in numbered blocks, a level meter and a Stop button.
// The kernel receives numbered messages: the rate, blocks, how many samples the browser lost; or an error.

const PROCESSOR = `
registerProcessor("whisperlab-blocks", class extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(Math.round(sampleRate / 10));
    this.filled = 0;
    this.port.onmessage = () => { this.deliver(); this.port.postMessage(null); this.ended = true; };
  }
  deliver() {
    const part = this.block.slice(0, this.filled);
    if (this.filled) this.port.postMessage(part, [part.buffer]);
    this.filled = 0;
  }
  process([[samples]]) {
    for (const sample of this.ended ? [] : samples ?? []) {
      this.block[this.filled++] = sample;
      if (this.filled === this.block.length) this.deliver();
    }
    return !this.ended;
  }
});`;

const AUDIO = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
const REASONS = {
  InsecureError: "the browser gives no microphone to this page; open JupyterLab over https or from localhost",
  NotAllowedError: "the browser denied the microphone; allow it for this page and run the cell again",
  NotFoundError: "the browser found no microphone; connect one and run the cell again",
  NotReadableError: "the microphone cannot be opened, another program may use it; run the cell again",
};

class Recorder {
  constructor(model) {
    Object.assign(this, { model, messages: 0, samples: 0, peak: 0, started: false, stopped: false, draw: new Set() });
    model.on("msg:custom", () => this.stop());
  }

  send(content, buffers = []) { this.model.send({ number: this.messages++, ...content }, undefined, buffers); }

  async start() {
    this.started = true;
    try {
      if (!navigator.mediaDevices) throw { name: "InsecureError" };
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: AUDIO });
      [this.track] = this.stream.getAudioTracks();
      this.track.onended = () => this.stop(); // unplugged, or the permission was withdrawn
      if (!this.stopped) await (window.MediaStreamTrackProcessor ? this.read() : this.connect());
    } catch (error) {
      this.stopped = true;
      const reason = { error: REASONS[error.name] ?? `the microphone failed: ${error}` };
      this.send(this.rate ? { ...reason, lost: 0 } : reason); // with it, the kernel ends a recording that has begun
    }
    if (this.stopped) this.release();
  }

  // Chromium: the track itself, with a queue that survives a busy page. The clock of an AudioContext loses samples there.
  async read() {
    const reader = new MediaStreamTrackProcessor({ track: this.track, maxBufferSize: 3000 }).readable.getReader();
    this.finish = () => this.track.stop(); // what is in the queue can still be read
    let block, filled = 0;
    for (let found = await reader.read(); !found.done; found = await reader.read()) {
      const part = new Float32Array(found.value.numberOfFrames);
      found.value.copyTo(part, { planeIndex: 0, format: "f32-planar" });
      if (!this.rate) this.begin(found.value.sampleRate);
      found.value.close();
      for (const sample of part) {
        block ??= new Float32Array(Math.round(this.rate / 10));
        block[filled++] = sample;
        if (filled === block.length) { this.deliver(block); block = undefined; filled = 0; }
      }
    }
    if (filled) this.deliver(block.slice(0, filled));
    this.end();
  }

  begin(rate) {
    this.rate = rate;
    this.scale = rate / this.track.getSettings().sampleRate;
    this.before = this.track.stats?.deliveredFrames;
    this.model.set("state", "recording");
    this.model.save_changes();
    this.send({ rate, name: this.track.label });
  }

  async connect() {
    this.context = new AudioContext({ latencyHint: "playback" });
    const address = URL.createObjectURL(new Blob([PROCESSOR], { type: "text/javascript" }));
    await this.context.audioWorklet.addModule(address);
    if (this.stopped) return;
    this.context.onstatechange = () => this.show();
    const mono = { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" };
    this.node = new AudioWorkletNode(this.context, "whisperlab-blocks", mono);
    this.node.port.onmessage = ({ data }) => (data ? this.deliver(data) : this.end());
    this.finish = () => this.node.port.postMessage("stop"); // the processor delivers its last block, then null
    this.begin(this.context.sampleRate);
    this.context.createMediaStreamSource(this.stream).connect(this.node);
  }

  deliver(block) {
    this.send({}, [block.buffer]);
    this.samples += block.length;
    this.peak = block.reduce((most, sample) => Math.max(most, Math.abs(sample)), this.peak / 2);
    this.show();
  }

  stop() {
    if (this.stopped) return;
    this.stopped = true;
    if (this.finish) this.finish();
    else if (this.started) this.send({ error: "stopped before the microphone was opened" });
  }

  end() {
    const { totalFrames, deliveredFrames } = this.track.stats ?? {}; // only some browsers have them
    const between = (deliveredFrames - this.before) * this.scale - this.samples; // some are on their way: 0.2 s
    const dropped = (totalFrames - deliveredFrames) * this.scale;
    this.send({ lost: Math.round(dropped + Math.max(0, between - this.rate / 5)) || 0 });
    this.release();
  }

  release() {
    this.stopped = true;
    this.stream?.getTracks().forEach((track) => track.stop());
    this.context?.close();
    this.peak = 0;
    this.show();
  }

  get seconds() { return this.rate ? this.samples / this.rate : 0; }
  show() { this.draw.forEach((draw) => draw()); }
}

function status(model, recorder, lag) {
  if (model.get("text")) return model.get("text");
  if (recorder.stopped) return "Stopped: the rest is being transcribed.";
  if (!recorder.started) return "The page that records was closed, reloaded or is another one. Stop ends and saves.";
  if (recorder.context?.state === "suspended") return "The browser waits for a click here.";
  if (model.get("state") === "ready") return "Waiting for the microphone: the browser may ask for a permission.";
  return `${recorder.seconds.toFixed(1)} s recorded, lag ${lag.toFixed(1)} s`;
}

export default () => {
  let recorder;
  return {
    initialize({ model }) {
      recorder = new Recorder(model);
      return () => recorder.release(); // the kernel was restarted
    },
    render({ model, el }) {
      el.innerHTML = `<button class="jupyter-button">Stop</button>
        <meter min="-60" max="0" low="-50" high="-3" optimum="-20" aria-label="level in decibels"></meter>
        <span role="status" style="white-space: pre-wrap"></span>`;
      const [button, meter, line] = el.children;
      let lag = 0;
      const draw = () => {
        meter.value = 20 * Math.log10(recorder.peak + 1e-6);
        line.textContent = status(model, recorder, lag);
        button.disabled = recorder.stopped || model.get("text") !== "";
      };
      const measure = () => { lag = Math.max(0, recorder.seconds - model.get("processed_s")); };
      button.onclick = () => { recorder.stop(); model.send({}); draw(); };
      el.onclick = () => recorder.context?.resume();
      model.on("change:processed_s", measure);
      model.on("change", draw);
      recorder.draw.add(draw);
      if (!recorder.started && model.get("state") === "ready") recorder.start();
      draw();
      return () => {
        model.off("change:processed_s", measure);
        model.off("change", draw);
        recorder.draw.delete(draw);
        if (!recorder.draw.size) recorder.stop(); // nobody sees that it records: the cell ran again, or was closed
      };
    },
  };
};
