#include "feed/source.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "tests/unit/feed/help.h"

static struct err err;
static char path[1024];

Test(source, files_are_opened_under_their_absolute_path, .init = folder_make, .fini = folder_remove) {
    file_put("a.csv", "x");
    cr_assert_eq(chdir(folder), 0);
    int fd = source_open("./a.csv", path, sizeof path, &err);
    cr_assert_geq(fd, 0, "%s", err.text);
    cr_assert_str_eq(path, in_folder("a.csv"));
    close(fd);
}

Test(source, what_is_no_file_is_refused, .init = folder_make, .fini = folder_remove) {
    cr_assert_eq(source_open(in_folder("nothing"), path, sizeof path, &err), -1);
    cr_assert_eq(err.code, EX_NOINPUT);
    cr_assert_eq(source_open(folder, path, sizeof path, &err), -1);
    cr_assert_not_null(strstr(err.text, "not a file"), "%s", err.text);
    cr_assert_eq(mkfifo(in_folder("pipe"), 0600), 0);
    cr_assert_eq(source_open(in_folder("pipe"), path, sizeof path, &err), -1, "and it does not wait for a writer");
    file_put("a", "x");
    cr_assert_eq(source_open(in_folder("a"), path, 5, &err), -1);
}

Test(source, standard_input_is_kept_beside_the_outbox, .init = folder_make, .fini = folder_remove) {
    static const uint8_t load[16] = {0xab};
    struct stat st;
    char text[16] = "";
    file_put("in", "a\n1\n");
    int in = open(in_folder("in"), O_RDONLY);
    cr_assert_eq(dup2(in, STDIN_FILENO), STDIN_FILENO);
    int fd = source_spool(in_folder("outbox.db"), load, path, sizeof path, &err);
    cr_assert_geq(fd, 0, "%s", err.text);
    cr_assert_str_eq(path, in_folder("ab000000-0000-0000-0000-000000000000.input"));
    cr_assert_eq(read(fd, text, sizeof text), 4);
    cr_assert_str_eq(text, "a\n1\n");
    cr_assert(fstat(fd, &st) == 0 && (st.st_mode & 0777) == 0600);
    cr_assert_eq(source_spool(in_folder("outbox.db"), load, path, sizeof path, &err), -1, "it is there");
    cr_assert_eq(err.code, EX_CANTCREAT);
}

Test(source, hashes_tell_files_apart, .init = folder_make, .fini = folder_remove) {
    uint8_t a[16], b[16], c[16];
    file_put("a", "same");
    file_put("b", "same");
    file_put("c", "sane");
    int fd[3] = {open(in_folder("a"), O_RDONLY), open(in_folder("b"), O_RDONLY), open(in_folder("c"), O_RDONLY)};
    lseek(fd[0], 2, SEEK_SET);
    cr_assert(source_hash(fd[0], a, &err) == 0 && source_hash(fd[1], b, &err) == 0 && source_hash(fd[2], c, &err) == 0);
    cr_assert_arr_eq(a, b, 16);
    cr_assert_neq(memcmp(a, c, 16), 0);
    cr_assert_eq(source_hash(-1, a, &err), -1);
}
