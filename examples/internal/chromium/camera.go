package chromium

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// The camera's picture: what a telephone offers to a page at least.
const cameraWidth, cameraHeight = 1280, 720

// Feed is what the camera of a browser sees: a grey wall until Show. One browser has one camera,
// which all its pages share.
type Feed struct {
	tb   testing.TB
	path string
}

// NewFeed returns a feed that is removed with the test.
func NewFeed(tb testing.TB) *Feed {
	tb.Helper()
	f := &Feed{tb: tb, path: filepath.Join(tb.TempDir(), "camera.y4m")}
	f.write(image.Rectangle{}, os.O_CREATE)
	return f
}

// Show holds a PNG, such as a screenshot, before the camera: in the middle and at most as large
// as the camera sees. The browser shows it within a few frames.
func (f *Feed) Show(picture []byte) {
	f.tb.Helper()
	drawn, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		f.tb.Fatal(err)
	}
	f.write(drawn, 0)
}

// Clear shows the grey wall again.
func (f *Feed) Clear() {
	f.tb.Helper()
	f.write(image.Rectangle{}, 0)
}

// write overwrites the file in place: the browser keeps it open and reads it round and round. A
// frame that it reads half old is one that no code is found in.
func (f *Feed) write(picture image.Image, flag int) {
	f.tb.Helper()
	frame := image.NewRGBA(image.Rect(0, 0, cameraWidth, cameraHeight))
	draw.Draw(frame, frame.Bounds(), image.NewUniform(color.Gray{Y: 128}), image.Point{}, draw.Src)
	size := picture.Bounds()
	shrink := max(1, (size.Dx()+cameraWidth-1)/cameraWidth, (size.Dy()+cameraHeight-1)/cameraHeight)
	width, height := size.Dx()/shrink, size.Dy()/shrink
	for y := range height {
		for x := range width {
			frame.Set((cameraWidth-width)/2+x, (cameraHeight-height)/2+y, picture.At(size.Min.X+x*shrink, size.Min.Y+y*shrink))
		}
	}
	var encoded bytes.Buffer
	if err := EncodeY4M(&encoded, 25, frame); err != nil {
		f.tb.Fatal(err)
	}
	file, err := os.OpenFile(f.path, os.O_WRONLY|flag, 0o600)
	if err != nil {
		f.tb.Fatal(err)
	}
	if _, err := file.WriteAt(encoded.Bytes(), 0); err != nil {
		f.tb.Error(err)
	}
	if err := file.Close(); err != nil {
		f.tb.Error(err)
	}
}

// EncodeY4M writes a picture as a YUV4MPEG2 video of one frame, 4:2:0. An odd last row or column
// is left out: Chromium shows no frame of an odd width, and does not say why.
func EncodeY4M(w io.Writer, fps int, picture image.Image) error {
	b := picture.Bounds()
	width, height := b.Dx()&^1, b.Dy()&^1
	luma, cb, cr := make([]byte, width*height), make([]byte, width*height/4), make([]byte, width*height/4)
	for y := range height {
		for x := range width {
			pixel := color.YCbCrModel.Convert(picture.At(b.Min.X+x, b.Min.Y+y)).(color.YCbCr)
			luma[y*width+x] = pixel.Y
			if x&1 == 0 && y&1 == 0 {
				cb[y/2*(width/2)+x/2], cr[y/2*(width/2)+x/2] = pixel.Cb, pixel.Cr
			}
		}
	}
	_, err := fmt.Fprintf(w, "YUV4MPEG2 W%d H%d F%d:1 Ip A1:1 C420\nFRAME\n%s%s%s", width, height, fps, luma, cb, cr)
	return err
}
