// The camera. It is asked for only from a click.
import { ask, Fault } from './ask.js';

// The side of the square that is sent, in pixels, and the pause between two of them.
const side = 640;
const pause = 200;

// open shows the camera in video and returns what reads it.
export async function open(video) {
  // Outside a secure context it is not refused: it does not exist.
  if (!navigator.mediaDevices?.getUserMedia) throw new Fault('insecure');
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment', width: { ideal: 1280 }, height: { ideal: 720 } } });
  } catch (error) {
    throw new Fault({ NotAllowedError: 'camera_refused', SecurityError: 'camera_refused', NotReadableError: 'camera_busy' }[error.name] ?? 'no_camera');
  }
  video.srcObject = stream;
  const stop = () => {
    stream.getTracks().forEach(track => track.stop());
    video.srcObject = null;
  };
  try {
    await video.play();
  } catch { // the person went on before it began
    stop();
    throw new Fault('stopped');
  }
  return { stop, reading: () => stream.active, read: await reader(video) };
}

// reader returns a function that reads the code before the camera now; empty without one. The
// browser does it itself where it can, else the application's own server.
async function reader(video) {
  if ('BarcodeDetector' in window && (await BarcodeDetector.getSupportedFormats().catch(() => [])).includes('qr_code')) {
    const detector = new BarcodeDetector({ formats: ['qr_code'] });
    return async () => {
      await wait(pause);
      const [found] = await detector.detect(video).catch(() => []);
      return found?.rawValue ?? '';
    };
  }
  const canvas = document.createElement('canvas');
  const context = canvas.getContext('2d', { willReadFrequently: true });
  return async () => {
    await wait(pause);
    const grey = greyFrame(video, canvas, context);
    if (!grey) return '';
    const reply = await ask(`/decode?width=${canvas.width}&height=${canvas.height}`, {
      method: 'POST', body: grey, credentials: 'same-origin', headers: { 'content-type': 'application/octet-stream' },
    });
    if (reply.status === 429) await wait(1000 * (Number(reply.headers.get('retry-after')) || 1));
    if (!reply.ok) return '';
    return (await reply.json()).text;
  };
}

// greyFrame takes the square in the middle, which is what the person sees of the camera.
function greyFrame(video, canvas, context) {
  const { videoWidth, videoHeight } = video;
  const square = Math.min(videoWidth, videoHeight);
  if (!square) return null;
  canvas.width = canvas.height = Math.min(square, side);
  context.drawImage(video, (videoWidth - square) / 2, (videoHeight - square) / 2, square, square, 0, 0, canvas.width, canvas.height);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const grey = new Uint8Array(canvas.width * canvas.height);
  for (let i = 0; i < grey.length; i++) grey[i] = (data[4 * i] * 77 + data[4 * i + 1] * 151 + data[4 * i + 2] * 28) >> 8;
  return grey;
}

const wait = time => new Promise(resolve => setTimeout(resolve, time));
