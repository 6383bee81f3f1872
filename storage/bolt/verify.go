package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"go.etcd.io/bbolt"
)

// The page format of bbolt, which it writes in the byte order of the machine.
const (
	pageHeader    = 16 // id 8, flags 2, count 2, overflow 4
	pageElement   = 16 // branch: pos 4, ksize 4, pgid 8; leaf: flags 4, pos 4, ksize 4, vsize 4
	branchPage    = 0x01
	leafPage      = 0x02
	bucketElement = 0x01
	bucketHeader  = 16 // root pgid 8, sequence 8; root 0 means that the page follows inline
)

// verifier reads every page reachable from the root once, through the file rather than the
// memory map: neither a missing page nor a wrong offset can hurt the process.
type verifier struct {
	file     *os.File
	pageSize int64
	pages    uint64
	seen     map[uint64]bool
	todo     []subtree
}

// subtree is a page to visit and the keys it may hold: from low, before high. Nil is open.
type subtree struct {
	page      uint64
	low, high []byte
}

// verifyPages checks the tree of the transaction against the file.
func verifyPages(file *os.File, tx *bbolt.Tx, pageSize int) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.Size() < tx.Size() {
		return fmt.Errorf("%d of %d bytes are missing", tx.Size()-info.Size(), tx.Size())
	}
	v := &verifier{
		file: file, pageSize: int64(pageSize), pages: uint64(tx.Size()) / uint64(pageSize),
		seen: map[uint64]bool{0: true, 1: true},
		todo: []subtree{{page: uint64(tx.Cursor().Bucket().Root())}},
	}
	for len(v.todo) > 0 {
		next := v.todo[len(v.todo)-1]
		v.todo = v.todo[:len(v.todo)-1]
		if err := v.visit(next); err != nil {
			return fmt.Errorf("page %d: %w", next.page, err)
		}
	}
	return nil
}

func (v *verifier) visit(t subtree) error {
	head := make([]byte, v.pageSize)
	if t.page >= v.pages {
		return errors.New("beyond the end")
	}
	if _, err := v.file.ReadAt(head, int64(t.page)*v.pageSize); err != nil {
		return err
	}
	if id := binary.NativeEndian.Uint64(head); id != t.page {
		return fmt.Errorf("says it is page %d", id)
	}
	overflow := uint64(binary.NativeEndian.Uint32(head[12:]))
	if t.page+overflow >= v.pages {
		return errors.New("overflows the end")
	}
	for id := t.page; id <= t.page+overflow; id++ {
		if v.seen[id] {
			return errors.New("used twice")
		}
		v.seen[id] = true
	}
	page := head
	if overflow > 0 {
		page = make([]byte, v.pageSize*int64(1+overflow))
		if _, err := io.ReadFull(io.NewSectionReader(v.file, int64(t.page)*v.pageSize, int64(len(page))), page); err != nil {
			return err
		}
	}
	return v.elements(page, t)
}

// elements checks the entries of a page and queues the pages below it.
func (v *verifier) elements(page []byte, t subtree) error {
	flags := binary.NativeEndian.Uint16(page[8:])
	count := int(binary.NativeEndian.Uint16(page[10:]))
	if flags != branchPage && flags != leafPage {
		return fmt.Errorf("unknown kind %#x", flags)
	}
	if flags == branchPage && count == 0 {
		return errors.New("branch without entries")
	}
	if pageHeader+count*pageElement > len(page) {
		return errors.New("more entries than fit")
	}
	below := make([]subtree, 0, count)
	last := t.low
	for i := range count {
		at := pageHeader + i*pageElement
		key, value, err := element(page, at, flags)
		if err != nil {
			return err
		}
		if order := bytes.Compare(key, last); order < 0 || order == 0 && i > 0 || t.high != nil && bytes.Compare(key, t.high) >= 0 {
			return errors.New("keys out of order")
		}
		last = key
		switch {
		case flags == branchPage:
			if i > 0 {
				below[i-1].high = bytes.Clone(key)
			}
			below = append(below, subtree{page: binary.NativeEndian.Uint64(page[at+8:]), low: bytes.Clone(key), high: t.high})
		case binary.NativeEndian.Uint32(page[at:])&bucketElement != 0:
			if err := v.bucket(value); err != nil {
				return fmt.Errorf("bucket %q: %w", key, err)
			}
		}
	}
	v.todo = append(v.todo, below...)
	return nil
}

// element returns the key, and the value of a leaf, of the entry at an offset.
func element(page []byte, at int, flags uint16) (key, value []byte, err error) {
	pos, keySize, valueSize := binary.NativeEndian.Uint32(page[at:]), binary.NativeEndian.Uint32(page[at+4:]), uint32(0)
	if flags == leafPage {
		pos, keySize = keySize, binary.NativeEndian.Uint32(page[at+8:])
		valueSize = binary.NativeEndian.Uint32(page[at+12:])
	}
	start := int64(at) + int64(pos)
	middle := start + int64(keySize)
	end := middle + int64(valueSize)
	if end > int64(len(page)) {
		return nil, nil, errors.New("entry outside the page")
	}
	return page[start:middle], page[middle:end], nil
}

// bucket queues the tree of a bucket, or checks the page that lies inline in its value.
func (v *verifier) bucket(value []byte) error {
	if len(value) < bucketHeader {
		return errors.New("short header")
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		v.todo = append(v.todo, subtree{page: root})
		return nil
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != leafPage {
		return errors.New("damaged inline page")
	}
	return v.elements(inline, subtree{})
}
