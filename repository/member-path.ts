import { BackupError } from '../core/errors.ts';
import { quoted } from './layout.ts';

/** Linux's PATH_MAX and NAME_MAX: nothing longer can be written. */
const MAX_PATH_BYTES = 4096;
const MAX_NAME_BYTES = 255;

/**
 * The path of a tar member, relative to the directory it is unpacked into, without `./` and trailing slashes;
 * `.` is that directory itself. It says nothing about links on the way: who writes must not follow any.
 *
 * @throws BackupError `object-damaged` for a path that leaves the directory or can't be written (S2)
 */
export function safeMemberPath(path: string): string {
  const refuse = (why: string): never => {
    throw new BackupError('object-damaged', `member ${quoted(path)} of the tar ${why}`);
  };
  if (path === '') refuse('has no name');
  if (path.includes('\0')) refuse('has a NUL in its name');
  if (path.startsWith('/')) refuse('has an absolute name');
  if (Buffer.byteLength(path) > MAX_PATH_BYTES) refuse(`has a name longer than ${MAX_PATH_BYTES} bytes`);
  const names = path.split('/').filter((name) => name !== '' && name !== '.');
  for (const name of names) {
    if (name === '..') refuse('leaves the directory');
    if (Buffer.byteLength(name) > MAX_NAME_BYTES) refuse(`has a name longer than ${MAX_NAME_BYTES} bytes`);
  }
  return names.length === 0 ? '.' : names.join('/');
}
