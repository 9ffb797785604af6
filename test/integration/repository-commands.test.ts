import { expect, it } from 'vitest';
import type { RepositoryDescription } from '../../operations/describe-repository.ts';
import { shareRepository, signal, type SharedRepository } from '../support/barman-cases.ts';
import { makeRepository } from '../support/made-repository.ts';
import { startS3 } from '../support/s3.ts';
import { describeWith } from '../support/tools.ts';

/** What barman-cloud prints: its list, or that it gives up. */
async function barmanSees(shared: SharedRepository) {
  const { code, stdout } = await shared.barman('barman-cloud-backup-list', ['--format', 'json']);
  if (code !== 0) return 'nothing';
  const { backups_list: list } = JSON.parse(stdout) as {
    backups_list: { backup_id: string; backup_name?: string | null; status: string }[];
  };
  return list
    .map(({ backup_id: id, backup_name: name, status }) => ({ id, ...(name ? { name } : {}), status }))
    .toSorted((a, b) => (a.id < b.id ? -1 : 1));
}

async function showSays(
  shared: SharedRepository,
  ...from: readonly string[]
): Promise<RepositoryDescription> {
  const { code, stdout, stderr } = await shared.walkeep('repository', 'show', ...from, '-o', 'json');
  expect(code, stderr).toBe(0);
  return JSON.parse(stdout) as RepositoryDescription;
}

const sees = ({ barman }: RepositoryDescription) => (barman.blocking.length > 0 ? 'nothing' : barman.shown);

const RECORD = `backup_name=hand-made\nbegin_time=2026-11-22 22:25:31+00:00\nbegin_wal=000000010000000000000003
end_time=2026-11-22 22:25:44+00:00\nend_wal=000000010000000000000003\nserver_name=cloud\nstatus=DONE
systemid=7711125222447432971\ntimeline=1\nversion=170010\nxlog_segment_size=16777216\n`;

describeWith(['versitygw', 'barman'], 'walkeep repository and barman-cloud', () => {
  it('E5: show says exactly what barman-cloud-backup-list prints, whatever records there are, in S3 and in a directory', async () => {
    const s3 = await startS3();
    const shared = shareRepository(s3, 'seen');
    const now = Date.now();
    const backups = [
      { ago: 4, at: 2, status: 'FAILED' },
      { ago: 3, at: 4 },
      { ago: 2, at: 6, keep: 'full' },
      { ago: 1, at: 8, status: 'STARTED' },
    ] as const;
    await makeRepository(shared, { backups, wal: [[1, 1, 10]] }, now, signal);
    const put = (folder: string, text: string | Uint8Array) =>
      shared.repository.store.put(`seen/base/${folder}/backup.info`, Buffer.from(text), { signal });

    const compare = async (why: string) => {
      const printed = await barmanSees(shared);
      expect(sees(await showSays(shared, ...shared.fromUrl)), why).toEqual(printed);
      const copy = ['--repository', `file://${shared.copyToDirectory()}`, '--server-name', 'seen'];
      expect(sees(await showSays(shared, ...copy)), why).toEqual(printed);
      return printed;
    };

    expect(await compare('as both write')).toHaveLength(4);

    await put('20261001T000001', RECORD.replace('timeline=1', 'timeline=one'));
    await put('20261001T000002', `${RECORD}just a line\n`);
    await put('20261001T000003', Buffer.from([0xff, 0xfe, 0x3d, 0x0a]));
    await put('20261001T000004', RECORD.replace('status=DONE', "tablespaces=[('a', 1"));
    await put('20261001T000005', RECORD.replaceAll('\n', '\r\n').replaceAll('=', ' = '));
    await put('20261001T000006', `# by hand\n\n${RECORD.replaceAll('+00:00', '')}`);
    await put('20261001T000007', RECORD.replace('status=DONE', 'status=RESTING').trimEnd());
    await put('20261001T000008', '');
    await put('no id at all', RECORD);
    const printed = await compare('odd records');
    expect(printed).toHaveLength(4 + 5);
    const { barman } = await showSays(shared, ...shared.fromUrl);
    expect(barman.unreadable.map(({ folder }) => folder.slice(-1))).toEqual(['1', '2', '3', '4']);

    await put('20261001T000009', `${RECORD}colour=blue\n`);
    expect(await compare('a field it does not know')).toBe('nothing');
    await put('20261001T000009', `\ufeff${RECORD}`);
    expect(await compare('a mark of byte order')).toBe('nothing');
    await put('20261001T000009', `timeline=one\n${RECORD}colour=blue\n`);
    expect(await compare('what it gives up at comes after what it can’t read')).toHaveLength(9);
  });

  it('E3: check tries the store, says what is wrong and exits 11; ls counts; nothing else is changed', async () => {
    const s3 = await startS3();
    const shared = shareRepository(s3, 'checked');
    await makeRepository(shared, { backups: [{ ago: 1, at: 2 }], wal: [[1, 1, 5]] }, Date.now(), signal);
    const before = await shared.objects();
    const readOnly = await shared.walkeep('repository', 'check', ...shared.fromUrl, '--read-only');
    expect(readOnly).toMatchObject({ code: 0, stderr: '' });
    expect(readOnly.stdout).toContain('not tried yet');
    expect(await shared.objects()).toEqual(before);

    const healthy = await shared.walkeep('repository', 'check', ...shared.fromUrl);
    expect(healthy.code, healthy.stdout).toBe(0);
    expect(healthy.stdout).toContain('an object that exists is not replaced (tried today)');
    const { 'walkeep/store.json': record, ...rest } = await shared.objects();
    expect(record).toBeDefined();
    expect(rest).toEqual(before);

    await shared.repository.store.put('checked/base/20261122T222531/data_x.json', Buffer.from('x'), {
      signal,
    });
    const sick = await shared.walkeep('repository', 'check', ...shared.fromUrl, '-o', 'json');
    expect(sick.code).toBe(11);
    expect(JSON.parse(sick.stdout)).toContainEqual(
      expect.objectContaining({ item: 'strangers in a backup', state: 'problem' }),
    );

    const listed = await shared.walkeep('repository', 'ls', ...shared.fromUrl);
    expect(listed.stdout).toMatch(/^wal +timeline 1 +5 /m);
    const long = await shared.walkeep('repository', 'ls', ...shared.fromUrl, 'wals/', '-l', '-o', 'json');
    expect((JSON.parse(long.stdout) as { key: string }[]).map(({ key }) => key)).toEqual(
      Object.keys(before).filter((key) => key.startsWith('wals/')),
    );
  });

  it('E3: check of a bucket that is not there says so, and exits 11', async () => {
    const shared = shareRepository(await startS3(), 'gone');
    const place = ['--repository', 's3://no-such-bucket/x', '--server-name', 'gone'];
    const endpoint = ['--endpoint-url', shared.s3.endpointUrl];
    const { code, stdout } = await shared.walkeep('repository', 'check', ...place, ...endpoint);
    expect(code).toBe(11);
    expect(stdout).toMatch(/PROBLEM +repository +.*NoSuchBucket/);
  });
});
