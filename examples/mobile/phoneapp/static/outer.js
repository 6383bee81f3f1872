// The page around the application, where App.FrameAncestor names one; elsewhere this does nothing.
//
// From there: {type: 'scan', text}, what the camera would have read, and {type: 'returned', address},
// where a sign-in came back to. To there: {type: 'state', signedIn}, and {type: 'authorize', address}, a
// request to the provider that the person is to be led through elsewhere.
const { outer } = document.documentElement.dataset;

export const framed = Boolean(outer) && parent !== window;

export function tell(message) {
  if (framed) parent.postMessage(message, outer);
}

// hear passes on what that page says, and nobody else.
export function hear({ scan, returned }) {
  if (!framed) return;
  addEventListener('message', event => {
    if (event.origin !== outer || event.source !== parent) return;
    const { type, text, address } = event.data ?? {};
    if (type === 'scan' && typeof text === 'string') scan(text);
    else if (type === 'returned' && typeof address === 'string') returned(address);
  });
}
