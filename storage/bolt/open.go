package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/qrgrant/qrgrant/storage"
)

// What can be wrong with a file given to Open; compare with errors.Is. The file is untouched.
var (
	// ErrInUse: another process, or another Store of this one, has the file open.
	ErrInUse = errors.New("is in use by another process")
	// ErrCorrupt: the file is damaged; restore a backup.
	ErrCorrupt = errors.New("is damaged, restore a backup")
	// ErrForeign: the file is something else, or of a newer version of this program.
	ErrForeign = errors.New("is not a database of this program")
)

// Options for Open. The zero value is fit for production.
type Options struct {
	// MaxPending is how many undecided QR sessions memory holds before CreateQRSession
	// returns storage.ErrFull. Zero means 1,000,000.
	MaxPending int
	// MaxReplays is how many used identifiers are kept before UseOnce returns
	// storage.ErrFull; each takes about a hundred bytes of memory. Zero means 1,000,000.
	MaxReplays int
	// LockTimeout is how long Open waits for another process to release the file. Zero
	// means 1 s.
	LockTimeout time.Duration
	// AuditRetention is how long Sweep keeps audit rows. Zero means 90 days.
	AuditRetention time.Duration
	// MaxSize is the size in bytes that the data in the file may reach; a write beyond it
	// returns storage.ErrFull. The file grows in steps of up to 16 MiB, the last of which may
	// end behind it. Zero means no limit but the disk.
	MaxSize int64
	// Logger gets the errors of writes nobody waits for. Nil discards them.
	Logger *slog.Logger

	// openFile lets a test hold the file that is written; nil means os.OpenFile.
	openFile func(name string, flag int, mode fs.FileMode) (*os.File, error)
}

func (o *Options) setDefaults() {
	if o.MaxPending == 0 {
		o.MaxPending = 1_000_000
	}
	if o.MaxReplays == 0 {
		o.MaxReplays = 1_000_000
	}
	if o.LockTimeout == 0 {
		o.LockTimeout = time.Second
	}
	if o.AuditRetention == 0 {
		o.AuditRetention = 90 * 24 * time.Hour
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Store is the embedded storage.Store. Its methods may be used by many goroutines; a unit of
// work (Tx) belongs to one.
type Store struct {
	db        *bbolt.DB
	codec     codec
	committer *committer
	memory    *memory
	locks     locks
	hub       hub
	logger    *slog.Logger
	retention time.Duration
	waiting   eventQueue
	// swept is the time of the last sweep.
	swept atomic.Pointer[time.Time]
	// Decoded records that nearly every request reads.
	clients *cache[storage.Client]
	users   *cache[storage.User]
	signIns *cache[storage.Session]

	replays *replays

	// life is held for reading by a commit and for writing by Close.
	life   sync.RWMutex
	closed bool
}

var _ storage.Store = (*Store)(nil)

const (
	// schemaVersion is the layout of the file; a file with a higher one is refused.
	schemaVersion = 4
	magic         = "qrgrant"
)

func bucketNames() []string {
	return []string{
		bucketMeta, bucketQR, bucketQRCode, bucketToken, bucketTokenIndex, bucketClient, bucketUser,
		bucketUserLogin, bucketSession, bucketSessionSubject, bucketKey, bucketAudit, bucketExpiry,
		bucketSessionClient, bucketConsent, bucketLogout, bucketLogoutDue, bucketReplay,
	}
}

// bucketsOf lists those that a file of an older schema has; Open adds the others to it.
func bucketsOf(schema uint32) []string {
	since := map[string]uint32{bucketSessionClient: 2, bucketConsent: 2, bucketLogout: 3, bucketLogoutDue: 3, bucketReplay: 4}
	return slices.DeleteFunc(bucketNames(), func(name string) bool { return since[name] > schema })
}

// The buckets, all at top level. An index row is written and removed with its record.
const (
	bucketMeta           = "meta"            // "magic", "schema"
	bucketQR             = "qr"              // id → record, version, due time
	bucketQRCode         = "qr_code"         // user code hash → id
	bucketToken          = "token"           // kind signature → record
	bucketTokenIndex     = "token_index"     // see indexRequest and those after it → ""
	bucketClient         = "client"          // id → record
	bucketUser           = "user"            // subject → record
	bucketUserLogin      = "user_login"      // login in lower case → subject
	bucketSession        = "session"         // id → record
	bucketSessionSubject = "session_subject" // subject, id → ""
	bucketSessionClient  = "session_client"  // session id, client id → ""
	bucketConsent        = "consent"         // subject, client id → record
	bucketLogout         = "logout"          // client id, session id → record
	bucketLogoutDue      = "logout_due"      // client id, due time, session id → ""
	bucketKey            = "key"             // id → record
	bucketAudit          = "audit"           // time, sequence → row
	bucketExpiry         = "expiry"          // time, kind, key of the record → ""
	bucketReplay         = "replay"          // time, identifier → ""
	keyMagic             = "magic"
	keySchema            = "schema"
)

// in returns one of the buckets above.
func in(tx *bbolt.Tx, bucket string) *bbolt.Bucket { return tx.Bucket([]byte(bucket)) }

// Open opens the database at path, or makes one (mode 0600) if the file is missing or empty.
// Any other file is first read from end to end: see ErrInUse, ErrCorrupt and ErrForeign.
func Open(path string, o Options) (*Store, error) {
	o.setDefaults()
	if err := verify(path, o.LockTimeout); err != nil {
		return nil, err
	}
	codec, err := newCodec()
	if err != nil {
		return nil, err
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: o.LockTimeout,
		// The list of free pages is rebuilt at Open instead of written by every commit.
		NoFreelistSync:  true,
		FreelistType:    bbolt.FreelistMapType,
		InitialMmapSize: initialMmapSize(),
		MaxSize:         int(o.MaxSize),
		OpenFile:        o.openFile,
	})
	if err != nil {
		return nil, openError(path, err)
	}
	if err := initialise(db); err != nil {
		return nil, errors.Join(fmt.Errorf("storage/bolt: initialise %s: %w", path, err), db.Close())
	}
	store := &Store{
		db: db, codec: codec, committer: newCommitter(db), memory: newMemory(o.MaxPending),
		logger: o.Logger, retention: o.AuditRetention,
		clients: newCache(cloneClient), users: newCache(cloneUser), signIns: newCache(cloneSession),
		replays: newReplays(o.MaxReplays),
	}
	if err := store.loadReplays(); err != nil {
		return nil, errors.Join(fmt.Errorf("storage/bolt: read %s: %w", path, err), store.Close())
	}
	return store, nil
}

// initialMmapSize is address space, not memory: as long as the file fits, the writer never
// has to wait for readers to remap it. Windows would make the file that big.
func initialMmapSize() int {
	if runtime.GOOS == "windows" || strconv.IntSize < 64 {
		return 0
	}
	return 1 << 30
}

func initialise(db *bbolt.DB) error {
	missing := false
	err := db.View(func(tx *bbolt.Tx) error {
		for _, name := range bucketNames() {
			missing = missing || in(tx, name) == nil
		}
		return nil
	})
	if err != nil || !missing {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error {
		for _, name := range bucketNames() {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		meta := in(tx, bucketMeta)
		if err := meta.Put([]byte(keyMagic), []byte(magic)); err != nil {
			return err
		}
		return meta.Put([]byte(keySchema), binary.BigEndian.AppendUint32(nil, schemaVersion))
	})
}

// verify refuses a file that bbolt must not open for writing. It holds the shared lock while
// it reads, so that no other process changes pages under it.
func verify(path string, timeout time.Duration) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("storage/bolt: %w", err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("database %s %w: it is no regular file", path, ErrForeign)
	case info.Size() == 0:
		return nil
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: timeout, ReadOnly: true})
	if err != nil {
		return openError(path, err)
	}
	return errors.Join(verifyOpen(path, db), db.Close())
}

func verifyOpen(path string, db *bbolt.DB) error {
	return db.View(func(tx *bbolt.Tx) error {
		file, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("storage/bolt: %w", err)
		}
		defer func() { _ = file.Close() }()
		if err := verifyPages(file, tx, db.Info().PageSize); err != nil {
			return fmt.Errorf("database %s %w (%w)", path, ErrCorrupt, err)
		}
		return verifySchema(path, tx)
	})
}

// verifySchema reads through bbolt and needs sound pages.
func verifySchema(path string, tx *bbolt.Tx) error {
	if name, _ := tx.Cursor().First(); name == nil {
		// bbolt made the file and the process died before it had a bucket.
		return nil
	}
	meta := in(tx, bucketMeta)
	if meta == nil || !bytes.Equal(meta.Get([]byte(keyMagic)), []byte(magic)) {
		return fmt.Errorf("database %s %w", path, ErrForeign)
	}
	raw := meta.Get([]byte(keySchema))
	if len(raw) != 4 {
		return fmt.Errorf("database %s %w (no schema version)", path, ErrCorrupt)
	}
	schema := binary.BigEndian.Uint32(raw)
	if schema > schemaVersion {
		return fmt.Errorf("database %s %w: its schema is %d, this version knows %d", path, ErrForeign, schema, schemaVersion)
	}
	for _, name := range bucketsOf(schema) {
		if in(tx, name) == nil {
			return fmt.Errorf("database %s %w (bucket %s is missing)", path, ErrCorrupt, name)
		}
	}
	return nil
}

// openError turns bbolt's errors into one line each.
func openError(path string, err error) error {
	var pathErr *fs.PathError
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("database %s %w", path, ErrInUse)
	case errors.As(err, &pathErr):
		return fmt.Errorf("storage/bolt: %w", err)
	case blankMetas(path):
		return fmt.Errorf("database %s %w (its first pages are blank)", path, ErrCorrupt)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch):
		return fmt.Errorf("database %s %w", path, ErrForeign)
	default:
		return fmt.Errorf("database %s %w (%w)", path, ErrCorrupt, err)
	}
}

// blankMetas reports whether the file starts with zeros, which no other program's file does.
func blankMetas(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }()
	head := make([]byte, 64)
	n, err := file.ReadAt(head, 0)
	return err == nil && n == len(head) && len(bytes.Trim(head[16:], "\x00")) == 0
}

// Health implements storage.Store.
func (s *Store) Health(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.committer.err(); err != nil {
		return err
	}
	return s.db.View(func(*bbolt.Tx) error { return nil })
}

// Close writes every session that only memory has, also the opened ones, so that a clean
// restart loses nothing but openings that had expired unscanned at the last sweep. It waits for
// the units that are being committed.
func (s *Store) Close() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.flush()
	s.committer.close()
	s.clients.close()
	s.users.close()
	s.signIns.close()
	return errors.Join(err, s.db.Close())
}

// get returns a copy of one value, or storage.ErrNotFound.
func (s *Store) get(bucket string, key []byte) ([]byte, error) {
	var raw []byte
	err := s.db.View(func(tx *bbolt.Tx) error {
		raw = bytes.Clone(in(tx, bucket).Get(key))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("storage/bolt: read: %w", err)
	}
	if raw == nil {
		return nil, storage.ErrNotFound
	}
	return raw, nil
}

// read decodes one record, or returns storage.ErrNotFound.
func read[T any](ctx context.Context, s *Store, bucket string, key []byte) (*T, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	raw, err := s.get(bucket, key)
	if err != nil {
		return nil, err
	}
	return decode[T](s.codec, raw)
}

// fetch decodes one record inside a transaction, or returns storage.ErrNotFound.
func fetch[T any](s *Store, tx *bbolt.Tx, bucket string, key []byte) (*T, error) {
	raw := in(tx, bucket).Get(key)
	if raw == nil {
		return nil, storage.ErrNotFound
	}
	return decode[T](s.codec, raw)
}

// put encodes and stores one record.
func put(s *Store, tx *bbolt.Tx, bucket string, key []byte, record any) error {
	raw, err := s.codec.encode(record)
	if err != nil {
		return err
	}
	return in(tx, bucket).Put(key, raw)
}

// update changes one record where it stands, when the unit of work in ctx commits, or at once.
func update[T any](ctx context.Context, s *Store, bucket string, key []byte, fn func(*bbolt.Tx, *T) error) error {
	changed := func(tx *bbolt.Tx) (*T, error) {
		record, err := fetch[T](s, tx, bucket, key)
		if err == nil {
			err = fn(tx, record)
		}
		return record, err
	}
	check := func(tx *bbolt.Tx) error {
		_, err := changed(tx)
		return err
	}
	return s.write(ctx, check, func(tx *bbolt.Tx) error {
		// Again, because the unit itself may have changed it a moment ago.
		record, err := changed(tx)
		if err != nil {
			return err
		}
		return put(s, tx, bucket, key, record)
	})
}
