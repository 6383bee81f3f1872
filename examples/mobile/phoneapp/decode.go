package phoneapp

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
	"golang.org/x/time/rate"
)

// The bounds of a frame in pixels: a QR code has at least 21 modules, and 640 by 640 is what the
// application sends at most.
const (
	minSide   = 21
	maxSide   = 1280
	maxPixels = 640 * 640
)

const (
	// framesPerSecond is what one address may send; the application sends five.
	framesPerSecond = 10
	// maxAddresses bounds what is remembered of addresses.
	maxAddresses = 4096
)

// decoder is POST /decode?width=W&height=H: the body is a frame of the camera, one octet of grey
// a pixel, row by row. The answer is {"text": what the QR code on it says}, empty without one.
// Nothing of a frame is kept. Requests of other sites are refused. Behind a proxy all phones
// share the proxy's address, and its limit.
type decoder struct {
	origin string
	// slots are as many as can decode at once.
	slots chan struct{}

	mu       sync.Mutex
	limiters map[string]*rate.Limiter
}

func newDecoder(origin string) *decoder {
	return &decoder{origin: origin, slots: make(chan struct{}, max(2, runtime.GOMAXPROCS(0))), limiters: make(map[string]*rate.Limiter)}
}

// ServeHTTP answers 400 for what is no frame, 403 for other sites, 413 for a frame that is too
// large and 429 for too many.
func (d *decoder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Browsers send the origin with every POST.
	if r.Header.Get("Origin") != d.origin {
		refuse(w, http.StatusForbidden, "This is for the application's own page.")
		return
	}
	if !d.admit(r) {
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusTooManyRequests, "Too many frames.")
		return
	}
	f, err := readFrame(w, r)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large), errors.Is(err, errTooLarge):
		refuse(w, http.StatusRequestEntityTooLarge, "The frame is too large.")
		return
	case err != nil:
		refuse(w, http.StatusBadRequest, "This is not a frame: width times height octets.")
		return
	}
	text := ""
	select {
	case d.slots <- struct{}{}:
		text = f.text()
		<-d.slots
	case <-r.Context().Done():
	}
	body, _ := json.Marshal(map[string]string{"text": text}) // a string cannot fail
	serve(w, "application/json", "no-store", body)
}

func refuse(w http.ResponseWriter, status int, sentence string) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, sentence, status)
}

// admit counts the frame against its address.
func (d *decoder) admit(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	limiter, ok := d.limiters[host]
	if !ok {
		if len(d.limiters) >= maxAddresses {
			clear(d.limiters)
		}
		limiter = rate.NewLimiter(framesPerSecond, 2*framesPerSecond)
		d.limiters[host] = limiter
	}
	return limiter.AllowN(time.Now(), 1)
}

// frame is a picture in grey.
type frame struct {
	grey          []byte
	width, height int
}

var (
	errTooLarge = errors.New("phoneapp: the frame is too large")
	errNoFrame  = errors.New("phoneapp: this is not a frame")
)

// readFrame reads no more than the frame says it is long.
func readFrame(w http.ResponseWriter, r *http.Request) (*frame, error) {
	query := r.URL.Query()
	width, errWidth := strconv.Atoi(query.Get("width"))
	height, errHeight := strconv.Atoi(query.Get("height"))
	switch {
	case errWidth != nil || errHeight != nil || width < minSide || height < minSide:
		return nil, errNoFrame
	case width > maxSide || height > maxSide || width*height > maxPixels:
		return nil, errTooLarge
	}
	grey, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(width*height)))
	if err == nil && len(grey) != width*height {
		err = errNoFrame
	}
	return &frame{grey, width, height}, err
}

// text returns what the QR code on the frame says; empty without one.
func (f *frame) text() (text string) {
	// A stranger chooses the pixels, and the decoder is a port of a library that throws.
	defer func() {
		if recover() != nil {
			text = ""
		}
	}()
	// The first plane of YUV is the luminance; the library asks for no more than that one.
	source, err := gozxing.NewPlanarYUVLuminanceSource(f.grey, f.width, f.height, 0, 0, f.width, f.height, false)
	if err != nil {
		return ""
	}
	bitmap, err := gozxing.NewBinaryBitmap(gozxing.NewHybridBinarizer(source))
	if err != nil {
		return ""
	}
	read, err := qrcode.NewQRCodeReader().Decode(bitmap, nil)
	if err != nil {
		return ""
	}
	return read.GetText()
}
