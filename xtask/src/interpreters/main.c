/* What CPython's Programs/python.c is since 3.8, for libpythons that come without it. */
int Py_BytesMain(int argc, char **argv);

int main(int argc, char **argv)
{
    return Py_BytesMain(argc, argv);
}
