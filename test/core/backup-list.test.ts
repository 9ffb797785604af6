import { describe, expect, it } from 'vitest';
import { mergeBackups, type ListedBackup } from '../../core/backup-list.ts';
import type { BackupPhase } from '../../core/backup-status.ts';

function listed(
  name: string,
  phase: BackupPhase,
  heardFrom: ListedBackup['heardFrom'],
  startedAt?: string,
): ListedBackup {
  const status = startedAt === undefined ? { phase } : { phase, startedAt };
  return { namespace: 'default', cluster: 'main', name, method: 'barmanObjectStore', status, heardFrom };
}

describe('one list of backups from the repository and from Temporal', () => {
  it('the record of a completed backup wins over what Temporal remembers', () => {
    const merged = mergeBackups(
      [listed('a', 'completed', 'repository', '2026-11-25T01:00:00Z')],
      [listed('a', 'running', 'motion', '2026-11-25T01:00:00Z')],
    );
    expect(merged.map((backup) => backup.status.phase)).toEqual(['completed']);
  });

  it('a failed outcome in the repository does not hide that Temporal saw it complete, nor the reverse', () => {
    const done = listed('a', 'completed', 'motion', '2026-11-25T01:00:00Z');
    const failed = listed('a', 'failed', 'repository', '2026-11-25T01:00:00Z');
    expect(mergeBackups([failed], [done])[0]?.status.phase).toBe('completed');
    expect(
      mergeBackups([{ ...done, heardFrom: 'repository' }], [{ ...failed, heardFrom: 'motion' }])[0]?.status
        .phase,
    ).toBe('completed');
  });

  it('what runs, and what waits, is listed beside what is recorded: oldest first, waiting last', () => {
    const merged = mergeBackups(
      [
        listed('second', 'completed', 'repository', '2026-11-25T02:00:00Z'),
        listed('first', 'completed', 'repository', '2026-11-25T01:00:00Z'),
      ],
      [listed('waiting', 'pending', 'motion'), listed('third', 'running', 'motion', '2026-11-25T03:00:00Z')],
    );
    expect(merged.map((backup) => backup.name)).toEqual(['first', 'second', 'third', 'waiting']);
  });

  it('equal names in two clusters are two backups', () => {
    const other = { ...listed('a', 'completed', 'repository'), cluster: 'other' };
    expect(mergeBackups([listed('a', 'completed', 'repository'), other], [])).toHaveLength(2);
  });
});
