import { describe, expect, it } from 'vitest';
import { formatMicros } from '../../core/target-time.ts';
import { judgeRecoveryFailure, readRecoveryStory } from '../../postgres/recovery-log.ts';

const line = (text: string, second = 0) => `2026-11-25 04:00:0${second}.250 UTC [77] ${text}\n`;
const STARTED = line('LOG:  starting PostgreSQL 15.18');
const REDO =
  STARTED +
  line('LOG:  redo starts at 0/2000028') +
  line('LOG:  restored log file "000000010000000000000003" from archive');

describe('what PostgreSQL wrote about a recovery', () => {
  it('tells times, segments, and where and why it stopped', () => {
    const story = readRecoveryStory(
      REDO +
        line('LOG:  restored log file "000000010000000000000004" from archive') +
        line('LOG:  recovery stopping before commit of transaction 1234, time 2026-11-25 03:00:01.5+00') +
        line('LOG:  redo done at 0/4000100 system usage: CPU', 3) +
        line('LOG:  last completed transaction was at log time 2026-11-25 03:00:00.123456+00', 3) +
        line('LOG:  restored log file "00000002.history" from archive', 3) +
        line('LOG:  database system is ready to accept connections', 5),
    );
    expect(story).toMatchObject({ segments: 2, lastRecordLsn: '0/4000100', hasBegun: true });
    expect(formatMicros(story.lastTransaction ?? 0n)).toBe('2026-11-25T03:00:00.123456Z');
    expect(formatMicros(story.stop?.time ?? 0n)).toBe('2026-11-25T03:00:01.5Z');
    expect((story.replayedAt ?? 0) - (story.beganAt ?? 0)).toBe(3000);
    expect((story.readyAt ?? 0) - (story.replayedAt ?? 0)).toBe(2000);
  });
});

describe('whom the end of a recovery blames', () => {
  const fetchFailed = (code: string) =>
    REDO +
    `walkeep: wal-fetch: ${code}: something about it; do this\n` +
    line(
      'FATAL:  could not restore file "000000010000000000000004" from archive: child process exited with exit code 200',
    );

  const cases: [log: string, blames: 'content' | 'here', code: string, file?: string][] = [
    [fetchFailed('object-damaged'), 'content', 'object-damaged', '000000010000000000000004'],
    [fetchFailed('wal-hole'), 'content', 'wal-hole', '000000010000000000000004'],
    [fetchFailed('wal-foreign'), 'content', 'wal-foreign', '000000010000000000000004'],
    [fetchFailed('store-unavailable'), 'here', 'store-unavailable', '000000010000000000000004'],
    [fetchFailed('deadline-exceeded'), 'here', 'deadline-exceeded', '000000010000000000000004'],
    [fetchFailed('secret-missing'), 'here', 'secret-missing', '000000010000000000000004'],
    [
      REDO + line('PANIC:  could not locate a valid checkpoint record'),
      'content',
      'recovery-failed',
      '000000010000000000000003',
    ],
    [STARTED + line('FATAL:  could not locate required checkpoint record'), 'content', 'recovery-failed'],
    [
      STARTED + line("FATAL:  requested timeline 3 is not a child of this server's history"),
      'content',
      'recovery-failed',
    ],
    [
      REDO + line('FATAL:  recovery ended before configured recovery target was reached'),
      'content',
      'recovery-failed',
      '000000010000000000000003',
    ],
    [
      REDO + line('FATAL:  WAL ends before end of online backup'),
      'content',
      'recovery-failed',
      '000000010000000000000003',
    ],
    [
      REDO + line('LOG:  startup process (PID 5) was terminated by signal 11: Segmentation fault'),
      'content',
      'recovery-failed',
      '000000010000000000000003',
    ],
    [
      REDO + line('LOG:  startup process (PID 5) was terminated by signal 9: Killed'),
      'here',
      'postgres-unavailable',
    ],
    [
      REDO + line('PANIC:  could not write to file "pg_wal/xlogtemp.1": No space left on device'),
      'here',
      'disk-full',
    ],
    [REDO + line('FATAL:  out of memory'), 'here', 'postgres-unavailable'],
    [
      STARTED + line('FATAL:  could not access file "orioledb": No such file or directory'),
      'here',
      'postgres-unavailable',
    ],
    [STARTED + line('FATAL:  something nobody has seen yet'), 'here', 'postgres-unavailable'],
    [
      REDO + line('FATAL:  something nobody has seen yet'),
      'content',
      'recovery-failed',
      '000000010000000000000003',
    ],
    ['', 'here', 'postgres-unavailable'],
  ];
  it.for(cases.map((one) => ({ one, says: one[0].trim().split('\n').at(-1)?.slice(33) ?? '' })))(
    'C6: $says',
    ({ one: [log, blames, code, file] }) => {
      const failure = judgeRecoveryFailure(log);
      expect(failure).toMatchObject({ blames, code });
      expect(failure.file).toBe(file);
    },
  );

  it('a resource manager that is missing may come with a library', () => {
    const log = REDO + line('FATAL:  resource manager with ID 130 not registered');
    expect(judgeRecoveryFailure(log)).toMatchObject({ blames: 'here', needsLibraries: true });
  });
});
