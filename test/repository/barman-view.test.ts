import { describe, expect, it, test } from 'vitest';
import { readAsBarman } from '../../repository/barman-view.ts';

const read = (text: string | Uint8Array) => readAsBarman(Buffer.from(text));

// test/integration/repository-commands.test.ts holds the same against barman-cloud itself.
describe('a record as barman-cloud reads it', () => {
  test.for([
    { why: 'as it writes it', text: 'backup_name=nightly\nstatus=DONE\ntimeline=1\n' },
    { why: 'with comments, spaces and DOS lines', text: '# x\r\n\r\nbackup_name = nightly \r\nstatus=DONE' },
    { why: 'with nulls', text: 'backup_name=nightly\nstatus=DONE\nend_time=None\nsize=None\n' },
  ])('E5: $why is shown', ({ text }) => {
    expect(read(text)).toEqual({ kind: 'shown', name: 'nightly', status: 'DONE' });
  });

  it('E5: without a status is empty, and any status is taken', () => {
    expect(read('')).toEqual({ kind: 'shown', status: 'EMPTY' });
    expect(read('status=RESTING\n')).toEqual({ kind: 'shown', status: 'RESTING' });
  });

  test.for([
    { why: 'a line that says nothing', text: 'status=DONE\nhello\n', line: 'line 2' },
    { why: 'a number that is none', text: 'timeline=one\n', line: 'timeline: ' },
    { why: 'a time that is none', text: 'end_time=tomorrow\n', line: 'end_time: ' },
    { why: 'a literal that is none', text: "tablespaces=[('a', 1\n", line: 'tablespaces: ' },
    { why: 'bytes that are no text', text: Buffer.from([0xff, 0x3d]), line: 'line 1 is not UTF-8' },
  ])('D3: $why is passed over', ({ text, line }) => {
    expect(read(text)).toMatchObject({ kind: 'unreadable', why: expect.stringContaining(line) });
  });

  test.for([
    { why: 'a field of a newer version', text: 'status=DONE\ncolour=blue\n' },
    { why: 'a mark of byte order', text: '\ufeffstatus=DONE\n' },
  ])('H2: $why stops it for the whole server', ({ text }) => {
    expect(read(text)).toMatchObject({ kind: 'blocking' });
  });

  it('H2: the first line that it can’t take decides', () => {
    expect(read('timeline=one\ncolour=blue\n').kind).toBe('unreadable');
    expect(read('colour=blue\ntimeline=one\n').kind).toBe('blocking');
  });
});
